package sandboxtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/toolset"
)

// testUnread: of a sandbox whose record cannot be read nothing runs any more when
// its session gets another, by whichever way the record is met, and the record is
// there to be looked at.
func testUnread(t *testing.T, driver func() sandbox.Driver) {
	for name, spoil := range map[string]func([]byte) []byte{
		"its handle is another version's": func(b []byte) []byte {
			var rec map[string]json.RawMessage
			must(t, json.Unmarshal(b, &rec))
			rec["handle"] = json.RawMessage(`"of another version"`)
			b, err := json.Marshal(rec)
			must(t, err)
			return b
		},
		"it is cut off":    func(b []byte) []byte { return b[:len(b)/2] },
		"there is no text": func(b []byte) []byte { return nil },
	} {
		for way, meet := range map[string]func(k *sandbox.Keeper, dir string) error{
			"a start": func(k *sandbox.Keeper, _ string) error { return k.Start(t.Context()) },
			"a claim": func(*sandbox.Keeper, string) error { return nil },
			"gc": func(_ *sandbox.Keeper, dir string) error {
				left, err := sandbox.Abandoned(dir, []sandbox.Driver{driver()})
				for _, l := range left {
					err = errors.Join(err, l.Remove(t.Context()))
				}
				return err
			},
		} {
			t.Run(name+", met by "+way, func(t *testing.T) {
				dir, stay := t.TempDir(), Nap()
				first, err := sandbox.NewKeeper(sandbox.KeeperConfig{Driver: driver(), Dir: dir})
				must(t, err)
				h, _, err := first.Open(t.Context(), "sesn_unread")
				must(t, err)
				r, err := h.Bash(t.Context(), toolset.Command{Text: "echo kept >kept; setsid sleep " + stay + " &"})
				if err != nil || r.ExitCode != 0 {
					t.Fatal(err, r)
				}
				must(t, first.LetGo(t.Context()))
				at := filepath.Join(dir, "sesn_unread")
				record := filepath.Join(at, "record.json")
				was, err := os.ReadFile(record)
				must(t, err)
				bad := spoil(bytes.Clone(was))
				must(t, os.WriteFile(record, bad, 0o600))

				k, err := sandbox.NewKeeper(sandbox.KeeperConfig{Driver: driver(), Dir: dir})
				must(t, err)
				t.Cleanup(func() { must(t, k.Stop(t.Context())) })
				must(t, meet(k, dir))
				h, lost, err := k.Open(t.Context(), "sesn_unread")
				if err != nil || lost {
					t.Fatal(lost, err)
				}
				gone(t, stay)
				if r, err = h.Bash(t.Context(), toolset.Command{Text: "cat kept"}); err != nil || Output(r) != "kept\n" {
					t.Errorf("the next sandbox: %q %v", Output(r), err)
				}
				if b, err := os.ReadFile(filepath.Join(at, "record.unread")); err != nil || !bytes.Equal(b, bad) {
					t.Errorf("the record that was set aside: %q %v", b, err)
				}
				must(t, h.Close(t.Context(), true))
				if _, err := os.Stat(at); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("the folder stays: %v", err)
				}
			})
		}
	}
}
