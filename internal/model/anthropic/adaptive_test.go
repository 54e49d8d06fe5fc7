package anthropic

import "testing"

func TestAdaptive(t *testing.T) {
	for id, want := range map[string]bool{
		"claude-opus-5-5": true, "claude-sonnet-5": true, "claude-fable-5-1": true, "claude-opus-4-6": true, "claude-sonnet-4-6-20260217": true,
		"claude-opus-4-8": true, "claude-haiku-4-5": false, "claude-opus-4-5-20251101": false, "claude-opus-4-20250514": false,
		"claude-3-5-sonnet-20241022": false, "claude-mythos-preview": false, "claude-": false, "llama3": false, "": false,
	} {
		if got := adaptive(id); got != want {
			t.Errorf("%s: %v", id, got)
		}
	}
}
