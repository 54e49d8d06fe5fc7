package worker

import (
	"strings"
	"testing"
)

func TestPlainID(t *testing.T) {
	for id, want := range map[string]bool{
		"sevt_01Ab": true, "a.b_c:d-e": true, "7": true, strings.Repeat("x", 256): true,
		"": false, "-a": false, "_a": false, "a/b": false, "a b": false, "ä": false, "a\n": false, strings.Repeat("x", 257): false,
	} {
		if plainID(id) != want {
			t.Errorf("%.20q: %v", id, !want)
		}
	}
}
