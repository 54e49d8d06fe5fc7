package stage

import (
	"bytes"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berthdev/berth/api"
)

// waiting is a draft in which the first file takes its time.
type waiting struct{}

func (waiting) Create(_ string, _ fs.FileMode, fill func(io.Writer) error) error {
	err := fill(io.Discard)
	time.Sleep(3*tellEach + time.Second)
	return err
}
func (waiting) Link(string, string) error { return nil }
func (waiting) Dir(string) error          { return nil }
func (waiting) Publish() error            { return nil }
func (waiting) Drop() error               { return nil }

// TestProgress: a staging that takes long says so in the log, again and again, with
// the bytes that have come.
func TestProgress(t *testing.T) {
	root := t.TempDir()
	must(t, os.WriteFile(root+"/a.csv", []byte("a,b\n"), 0o600))
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		s, err := New(Config{Roots: []string{root}, Log: slog.New(slog.NewTextHandler(&log, nil))})
		must(t, err)
		inputs, err := Parse(api.Metadata{"input_file": "file://" + root + "/a.csv"})
		must(t, err)
		must(t, s.Stage(t.Context(), inputs, waiting{}))
		for text, n := range map[string]int{`msg="staging inputs" inputs=1`: 1, `msg="still staging inputs" inputs=1 bytes=4 for=`: 3, `msg="input staged"`: 1, `msg="inputs staged" inputs=1 bytes=4`: 1} {
			if got := strings.Count(log.String(), text); got != n {
				t.Errorf("%d lines have %s, not %d:\n%s", got, text, n, log.String())
			}
		}
	})
}
