package test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the generated part of docs/migrating.md anew")

const (
	migratingPage = "../docs/migrating.md"
	corpusBegin   = "<!-- generated: go test ./test -run TestCorpusPage -update -->\n"
	corpusEnd     = "<!-- end of what is generated -->\n"
)

// TestCorpusPage holds docs/migrating.md to the corpus's improvements, each of
// which has a case.
func TestCorpusPage(t *testing.T) {
	has := map[*improvement]bool{noExtraLine: true} // every bash call
	for _, c := range corpus {
		for _, call := range c.calls {
			has[call.better], has[call.betterRG] = true, true
		}
	}
	var want strings.Builder
	want.WriteString("| | The official worker | This one |\n|---|---|---|\n")
	for _, i := range improvements {
		if !has[i] {
			t.Errorf("no case of the corpus shows %q", i.title)
		}
		fmt.Fprintf(&want, "| %s | %s | %s |\n", i.title, i.official, i.ours)
	}
	for i := range has {
		if i != nil && !strings.Contains(want.String(), "| "+i.title+" |") {
			t.Errorf("%q is missing from the list of improvements", i.title)
		}
	}
	page, err := os.ReadFile(migratingPage)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(page), corpusBegin)
	got, after, ok2 := strings.Cut(rest, corpusEnd)
	switch {
	case !ok || !ok2:
		t.Fatalf("%s has lost its marks", migratingPage)
	case got == want.String():
	case *update:
		if err := os.WriteFile(migratingPage, []byte(before+corpusBegin+want.String()+corpusEnd+after), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Errorf("%s is not what the corpus has; write it anew with\n  go test ./test -run TestCorpusPage -update", migratingPage)
	}
}
