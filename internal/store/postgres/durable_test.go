package postgres

import (
	"strings"
	"testing"

	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/store/storetest/pgtest"
)

// Acknowledged means on disk, whatever the URL would rather have.
func TestConnectionsAreDurable(t *testing.T) {
	url := pgtest.Database(t)
	for _, url := range []string{url, url + "&synchronous_commit=off"} {
		s, err := Open(t.Context(), url, store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range s.lanes {
			got := l.c.pg.ExecParams(t.Context(), "SHOW synchronous_commit", nil, nil, nil, nil).Read()
			if got.Err != nil || string(got.Rows[0][0]) != "on" {
				t.Errorf("synchronous_commit is %s, %v", got.Rows, got.Err)
			}
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestPayloads(t *testing.T) {
	for _, n := range []store.Note{
		{Session: "sesn_1", Emit: 12}, {Session: "sesn_1", Emit: 12, Turn: true}, {Session: "sesn_1", Deleted: true}, {Environment: "env_1"},
	} {
		said := payloads("us", []store.Note{n})
		if len(said) != 1 || !strings.HasPrefix(said[0], "us ") {
			t.Fatalf("%+v became %q", n, said)
		}
		got, times := parse(said[0][3:])
		if times != 1 || got.Session != n.Session || got.Emit != n.Emit || got.Turn != n.Turn || got.Deleted != n.Deleted || got.Environment != n.Environment {
			t.Errorf("%+v became %q and then %+v", n, said, got)
		}
	}
	for _, other := range []string{"", "s", "s sesn_1", "s sesn_1 x", "z 1 2", "q", "q a b", "q a -1"} {
		if n, times := parse(other); times > 0 {
			t.Errorf("%q became %+v", other, n)
		}
	}
}
