package sandbox_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/mock"
)

var receipt = sandbox.Receipt{
	Session: "sesn_1", Driver: "namespaces", Version: "Linux", Policy: "sha256:1", At: time.Unix(1e9, 5).UTC(),
	Checks:   []sandbox.Check{{Name: "user", Promised: "not root", Found: "1000", OK: true}},
	Enforced: []sandbox.Limit{sandbox.LimitMemory}, Left: []sandbox.Limit{sandbox.LimitCPU},
}

func TestReceiptSurvivesTheDisk(t *testing.T) {
	dir := t.TempDir()
	if _, err := sandbox.ReadReceipt(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of nothing: %v", err)
	}
	if err := sandbox.WriteReceipt(dir, receipt); err != nil {
		t.Fatal(err)
	}
	got, err := sandbox.ReadReceipt(dir)
	if err != nil || !cmp.Equal(got, receipt) {
		t.Errorf("%v %s", err, cmp.Diff(receipt, got))
	}
}

func TestReceiptsThatAreNone(t *testing.T) {
	good := `"session":"s","driver":"d","at":"2026-01-01T00:00:00Z","checks":[]`
	if _, err := sandbox.ParseReceipt([]byte("{" + good + "}")); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"empty":            "",
		"cut":              "{" + good,
		"no object":        "[]",
		"null":             "null",
		"unknown member":   "{" + good + `,"x":1}`,
		"more after it":    "{" + good + "}{}",
		"no session":       `{"driver":"d","at":"2026-01-01T00:00:00Z"}`,
		"no time":          `{"session":"s","driver":"d"}`,
		"not UTF-8":        "{" + good + `,"version":"` + "\xff" + `"}`,
		"a long text":      "{" + good + `,"version":"` + strings.Repeat("x", 9<<10) + `"}`,
		"many checks":      "{" + strings.Replace(good, "[]", "["+strings.Repeat(`{"name":"a"},`, 600)+`{"name":"a"}]`, 1) + "}",
		"a large document": "{" + good + strings.Repeat(" ", 300<<10) + "}",
	} {
		if r, err := sandbox.ParseReceipt([]byte(text)); err == nil {
			t.Errorf("%s: read as %+v", name, r)
		}
	}
}

// FuzzReceipt reads anything; what it takes it writes and reads as the same.
func FuzzReceipt(f *testing.F) {
	f.Add([]byte(`{"session":"s","driver":"d","at":"2026-01-01T00:00:00Z","checks":[{"name":"a","promised":"b","found":"c","ok":true}],"enforced":["cpu"]}`))
	f.Add([]byte(`{"session":"s","driver":"d","at":"2026-01-01T00:00:00Z","checks":null} x`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := sandbox.ParseReceipt(b)
		if err != nil {
			return
		}
		dir := t.TempDir()
		if err := sandbox.WriteReceipt(dir, r); err != nil {
			// Escapes may make it longer than one may be, and a year past 9999 has no text.
			if len(b) < 8<<10 && r.At.Year() < 9999 {
				t.Fatal(err)
			}
			return
		}
		again, err := sandbox.ReadReceipt(dir)
		if err != nil || again.Session != r.Session || len(again.Checks) != len(r.Checks) || !again.At.Equal(r.At) {
			t.Fatalf("%v: %s", err, cmp.Diff(r, again))
		}
	})
}

// TestKeeperKeepsTheReceipt has it beside the tree from Open on, also when the
// sandbox has ended, and gone with the session.
func TestKeeperKeepsTheReceipt(t *testing.T) {
	dir := t.TempDir()
	k := keeper(t, mock.New(mock.Knobs{}), dir)
	h := open(t, k, "sesn_1", false)
	at := filepath.Join(dir, "sesn_1")
	if r, err := sandbox.ReadReceipt(at); err != nil || r.Session != "sesn_1" || r.Driver != mock.Name {
		t.Errorf("%+v %v", r, err)
	}
	closed(t, h, false)
	if _, err := sandbox.ReadReceipt(at); err != nil {
		t.Errorf("after the end: %v", err)
	}
	closed(t, open(t, k, "sesn_1", false), true)
	if _, err := os.Stat(at); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after the session: %v", err)
	}
}
