package toolset_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/berthdev/berth/toolset"
)

// Whatever a model sends as input, a call ends in text.
func FuzzInput(f *testing.F) {
	for _, s := range []string{`{"command":"x","timeout_ms":1e400}`, `{"file_path":"a","view_range":[1,2]}`, `{"file_path":"a","old_string":"x","new_string":"y"}`,
		`{"pattern":"**/{a,b}*[!c]"}`, `{"pattern":"(?i)k[^s]+|x{2,3}"}`, `{"pattern":"\\"}`, `[]`, `{`, `{"file_path":"\ud800"}`} {
		f.Add(s)
	}
	w := newWorld(f, toolset.Options{})
	w.sh.answer = func(context.Context, toolset.Command) (toolset.Result, error) {
		return toolset.Result{End: toolset.Exited}, nil
	}
	w.put("a", "x y\nz\n")
	f.Fuzz(func(t *testing.T, input string) {
		for _, name := range w.Names() {
			if name == "write" {
				continue // it would fill the disk
			}
			blocks, _ := w.Run(t.Context(), "id", name, json.RawMessage(input))
			if len(blocks) != 1 || blocks[0].Text == "" || !utf8.ValidString(blocks[0].Text) || strings.Contains(blocks[0].Text, w.root) {
				t.Errorf("%s %q: %+v", name, input, blocks)
			}
		}
	})
}
