package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

var update = flag.Bool("update", false, "write the generated part of docs/configuration.md anew")

const (
	configurationPage = "../../docs/configuration.md"
	generatedBegin    = "<!-- generated: go test ./cmd/berth -run TestConfigurationPage -update -->\n"
	generatedEnd      = "<!-- end of what is generated -->\n"
)

// TestConfigurationPage holds docs/configuration.md to the command line.
func TestConfigurationPage(t *testing.T) {
	var c cli
	parser, err := newParser(&c, newTerm(strings.NewReader(""), io.Discard, io.Discard), map[string]string{
		"data_dir": "$XDG_DATA_HOME/berth", "state_dir": "/var/lib/berth",
	})
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(configurationPage)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(page), generatedBegin)
	got, after, ok2 := strings.Cut(rest, generatedEnd)
	if !ok || !ok2 {
		t.Fatalf("%s has lost its marks", configurationPage)
	}
	want := reference(parser.Model.Node)
	if got == want {
		return
	}
	if *update {
		if err := os.WriteFile(configurationPage, []byte(before+generatedBegin+want+generatedEnd+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	gotLines, wantLines := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range max(len(gotLines), len(wantLines)) {
		g, w := lineAt(gotLines, i), lineAt(wantLines, i)
		if g != w {
			t.Fatalf("%s is not what the program has; write it anew with\n  go test ./cmd/berth -run TestConfigurationPage -update\nfirst difference:\n  page    %s\n  program %s", configurationPage, g, w)
		}
	}
}

func lineAt(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return "(nothing)"
}

// reference is a table of the verbs, and one of flags for each set of verbs
// that shares them.
func reference(root *kong.Node) string {
	var b strings.Builder
	leaves := root.Leaves(true)
	b.WriteString("### Verbs\n\n| Verb | What it does |\n|---|---|\n")
	verbs := map[string][]string{} // by a flag's row
	var rows []string              // in order
	all := make([]string, len(leaves))
	for i, leaf := range leaves {
		name := strings.TrimPrefix(leaf.Path(), "berth ")
		all[i] = strings.Fields(strings.Split(name, "<")[0])[0]
		words := []string{leafName(leaf)}
		for _, p := range leaf.Positional {
			words = append(words, strings.ToUpper(p.Name))
			if !p.Required {
				words[len(words)-1] = "[" + words[len(words)-1] + "]"
			}
		}
		all[i] = leafName(leaf)
		fmt.Fprintf(&b, "| `%s` | %s |\n", strings.Join(words, " "), cell(leaf.Help))
		for _, group := range leaf.AllFlags(true) {
			for _, f := range group {
				if f.Name == "help" || f.Hidden {
					continue
				}
				row := flagRow(f)
				if _, known := verbs[row]; !known {
					rows = append(rows, row)
				}
				verbs[row] = append(verbs[row], all[i])
			}
		}
	}
	b.WriteString("\n### Flags, by the verbs that have them\n")
	var done []string
	for _, row := range rows {
		who := sharers(verbs[row], all)
		if slices.Contains(done, who) {
			continue
		}
		done = append(done, who)
		fmt.Fprintf(&b, "\n%s\n\n| Flag | Variable | Default | Meaning |\n|---|---|---|---|\n", who)
		for _, other := range rows {
			if sharers(verbs[other], all) == who {
				b.WriteString(other)
			}
		}
	}
	b.WriteString("\n")
	return b.String()
}

// leafName is a verb as it is typed after berth.
func leafName(n *kong.Node) string {
	name := n.Name
	for p := n.Parent; p != nil && p.Parent != nil; p = p.Parent {
		name = p.Name + " " + name
	}
	return name
}

// sharers names a set of verbs: groups that are in it whole by their first
// word.
func sharers(verbs, all []string) string {
	if len(verbs) == len(all) {
		return "Every verb:"
	}
	count := func(of []string, group string) (n int) {
		for _, v := range of {
			if strings.HasPrefix(v, group+" ") {
				n++
			}
		}
		return n
	}
	var names []string
	for _, v := range verbs {
		group, _, many := strings.Cut(v, " ")
		if many && count(all, group) == count(verbs, group) {
			v = group + " …"
		}
		if v = "`" + v + "`"; !slices.Contains(names, v) {
			names = append(names, v)
		}
	}
	return strings.Join(names, ", ") + ":"
}

func flagRow(f *kong.Flag) string {
	name := "--" + f.Name
	if f.Tag.Negatable != "" {
		name = "--[no-]" + f.Name
	}
	if f.Short != 0 {
		name = "-" + string(f.Short) + ", " + name
	}
	if !f.IsBool() {
		what := f.PlaceHolder
		if what == "" {
			what = strings.ToUpper(f.Target.Kind().String())
			switch {
			case f.Target.Type().String() == "time.Duration":
				what = "DURATION"
			case f.Enum != "":
				what = strings.ReplaceAll(f.Enum, ",", `\|`)
			case f.IsSlice() || f.Target.Kind().String() == "string" || f.Target.Kind().String() == "ptr":
				what = "TEXT"
			case strings.HasPrefix(f.Target.Kind().String(), "int"):
				what = "N"
			}
		}
		name += "=" + what
	}
	env := ""
	if len(f.Envs) > 0 {
		env = "`" + strings.Join(f.Envs, "`, `") + "`"
	}
	def := f.Default
	if def == "" && f.IsBool() {
		def = "false"
	}
	if def != "" {
		def = "`" + def + "`"
	}
	return fmt.Sprintf("| `%s` | %s | %s | %s |\n", name, env, def, cell(f.Tag.Help))
}

func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }
