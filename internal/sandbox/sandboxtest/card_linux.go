package sandboxtest

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
)

var update = flag.Bool("update", false, "write this driver's part of the report card in docs/security.md")

// outcome is how a driver fared under an attack.
type outcome struct{ mark, why string }

// What a card says.
const (
	stopped = "stopped"
	through = "**not stopped**"
	void    = "n/a"
	depends = "depends"
)

// cardPage is the page with the card, from a driver's folder. The table and
// the reasons below it lie between two lines.
const (
	cardPage   = "../../../docs/security.md"
	cardBegins = "<!-- attacks -->\n"
	cardEnds   = "<!-- end of attacks -->\n"
)

// report compares how a driver fared with its part of the card, or with
// -update writes it. What did not run is left alone.
func report(t *testing.T, driver string, fared map[int]outcome) {
	t.Helper()
	f, err := os.OpenFile(cardPage, os.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if *update { // other drivers' tests may be about to write
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(cardPage)
	if err != nil {
		t.Fatal(err)
	}
	page, err := renew(string(b), driver, fared)
	if err != nil {
		t.Fatalf("docs/security.md: %v", err)
	}
	for i, a := range attacks {
		if o, ran := fared[i]; ran {
			t.Logf("attack %-30s %s: %s %s", a.name, driver, strings.Trim(o.mark, "*"), o.why)
		}
	}
	switch {
	case page == string(b):
	case *update:
		if err := os.WriteFile(cardPage, []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Errorf("the card in docs/security.md does not say how %s fared; run this test with -update and read the difference", driver)
	}
}

// renew writes a driver's outcomes into a page.
func renew(page, driver string, fared map[int]outcome) (string, error) {
	before, rest, begins := strings.Cut(page, cardBegins)
	card, after, ends := strings.Cut(rest, cardEnds)
	if !begins || !ends {
		return "", errors.New("there is no card")
	}
	var table, reasons []string
	for line := range strings.Lines(card) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "|"):
			table = append(table, line)
		case line != "":
			reasons = append(reasons, line)
		}
	}
	if len(table) != 2+len(attacks) {
		return "", fmt.Errorf("the card has %d lines, for %d attacks", len(table), len(attacks))
	}
	drivers := strings.Split(table[0], " | ")
	column := slices.IndexFunc(drivers, func(cell string) bool { return strings.Trim(cell, "` |") == driver })
	if column < 1 {
		return "", fmt.Errorf("the card has no column for %s", driver)
	}
	for i, o := range fared {
		cells := strings.Split(strings.Trim(table[2+i], "| "), " | ")
		if len(cells) != len(drivers) || cells[0] != attacks[i].name {
			return "", fmt.Errorf("%q is no line of attack %s", table[2+i], attacks[i].name)
		}
		cells[column] = o.mark
		table[2+i] = "| " + strings.Join(cells, " | ") + " |"
		first := reason(driver, i)
		reasons = slices.DeleteFunc(reasons, func(r string) bool { return strings.HasPrefix(r, first) })
		if o.why != "" {
			reasons = append(reasons, first+o.why+".")
		}
	}
	slices.SortFunc(reasons, func(a, b string) int { return cmp.Compare(place(a, drivers), place(b, drivers)) })
	card = strings.Join(table, "\n") + "\n\n" + strings.Join(reasons, "\n") + "\n\n"
	return before + cardBegins + "\n" + card + cardEnds + after, nil
}

// reason begins the line that says why.
func reason(driver string, attack int) string {
	name, _, _ := strings.Cut(attacks[attack].name, ":")
	return "- `" + driver + "`, attack " + name + ": "
}

// place orders reasons by driver and attack.
func place(line string, drivers []string) int {
	for d, cell := range drivers {
		for i := range attacks {
			if strings.HasPrefix(line, reason(strings.Trim(cell, "` |"), i)) {
				return d*len(attacks) + i
			}
		}
	}
	return -1
}
