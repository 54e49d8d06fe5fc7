package main

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// fenced are the blocks of a page with commands or scripts.
var (
	fenced = regexp.MustCompile("(?s)\n```\n(.*?)```\n")
	port   = regexp.MustCompile(`127\.0\.0\.1:\d+`)
)

// TestMigratingPage holds that every command and every line of a script of
// docs/migrating.md is in migrating.txtar, which runs them.
func TestMigratingPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/migrating.md")
	if err != nil {
		t.Fatal(err)
	}
	script, err := os.ReadFile("testdata/script/migrating.txtar")
	if err != nil {
		t.Fatal(err)
	}
	run := map[string]bool{}
	for line := range strings.Lines(string(script)) {
		line = strings.TrimSpace(line)
		run[line] = true
		if command, ok := strings.CutPrefix(line, "exec "); ok {
			run[strings.TrimSuffix(command, " &worker&")] = true
		}
		if note, ok := strings.CutPrefix(line, "# "); ok { // a setting, which the script makes in its own way
			run[note] = strings.HasPrefix(note, "export ")
		}
	}
	blocks := fenced.FindAllStringSubmatch(string(page), -1)
	if len(blocks) < 5 {
		t.Fatalf("the page has %d blocks of commands", len(blocks))
	}
	for _, b := range blocks {
		for line := range strings.Lines(b[1]) {
			if line = strings.TrimSpace(line); !run[line] && !run[port.ReplaceAllString(line, "127.0.0.1:0")] {
				t.Errorf("migrating.txtar does not run %q", line)
			}
		}
	}
}
