package httpapi

import (
	"slices"
	"strings"
	"testing"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/plane"
)

func TestBegunHeader(t *testing.T) {
	for value, want := range map[string][]string{"": nil, api.BegunNone: {}, "sevt_1": {"sevt_1"}, "sevt_1, sevt_2": {"sevt_1", "sevt_2"}} {
		got, err := begunCalls(value)
		if err != nil || !slices.Equal(got, want) || (got == nil) != (want == nil) {
			t.Errorf("%q: %v, %v", value, got, err)
		}
	}
	for _, value := range []string{",", "sevt_1,", "sevt_1 sevt_2", "sevt_\x00", strings.Repeat("a", 1000), strings.Repeat("sevt_1,", 1000) + "sevt_1"} {
		if got, err := begunCalls(value); plane.KindOf(err) != plane.Invalid {
			t.Errorf("%.20q: %v, %v", value, got, err)
		}
	}
}
