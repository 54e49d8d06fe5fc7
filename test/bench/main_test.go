package main

import (
	"context"
	"errors"
	"testing"
)

func TestAMissEndsWithOne(t *testing.T) {
	of := func(name string, err error, ok ...bool) row {
		return row{name, func(context.Context) (all []figure, _ error) {
			for _, ok := range ok {
				all = append(all, figure{name, "1", "≤ 2", ok})
			}
			return all, err
		}}
	}
	held, missed, broken := of("held", nil, true, true), of("missed", nil, true, false), of("broken", errors.New("x"), true)
	for _, c := range []struct {
		rows []row
		want int
	}{{[]row{held}, 0}, {[]row{missed, held}, 1}, {[]row{held, broken}, 1}} {
		if got := measure(t.Context(), c.rows, ""); got != c.want {
			t.Errorf("%d rows end with %d, want %d", len(c.rows), got, c.want)
		}
	}
}

func TestRowsAreChosen(t *testing.T) {
	names := map[string]bool{}
	for _, r := range rows {
		if names[r.name] {
			t.Errorf("two rows are called %s", r.name)
		}
		names[r.name] = true
	}
	for pattern, want := range map[string]int{"": len(rows), "^idle$": 1, "backlog": 2, "nothing of the kind": 0, "(": 0} {
		if got, err := choose(rows, pattern); len(got) != want || (err == nil) != (want > 0) {
			t.Errorf("%q chooses %d rows, %v", pattern, len(got), err)
		}
	}
}
