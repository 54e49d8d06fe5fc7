package storetest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/store/postgres"
	"github.com/berthdev/berth/internal/store/storetest/pgtest"
)

// The questions of a group of transitions share a round trip, and its writes
// another, the commit's: each costs both sides more than most statements.
func TestRoundTripsOfAGroup(t *testing.T) {
	at, trips := counted(t, pgtest.Database(t))
	st, err := postgres.Open(t.Context(), at, store.Options{Writers: 1})
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, st)
	var ids []string
	for i := range 16 {
		ids = append(ids, fmt.Sprintf("sesn_%02d", i))
	}
	world(t, st, ids...)
	step := func(id string) func(store.Tx) error {
		return func(tx store.Tx) error {
			s, err := tx.LockSession(id)
			if err != nil {
				return err
			}
			s.Pos++
			return tx.UpdateSession(s)
		}
	}
	// The second time every statement is prepared.
	var n int64
	for range 2 {
		var steps []func(store.Tx) error
		for _, id := range ids {
			steps = append(steps, step(id))
		}
		before := trips.Load()
		if err := errors.Join(group(st, steps...)...); err != nil {
			t.Fatal(err)
		}
		n = trips.Load() - before
	}
	if n > 2 {
		t.Errorf("%d transitions took %d round trips", len(ids), n)
	}
}

// counted is the database behind a proxy that counts the client's Sync
// messages, each of which waits for an answer.
func counted(t *testing.T, database string) (at string, trips *atomic.Int64) {
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	query := u.Query()
	server := filepath.Join(query.Get("host"), ".s.PGSQL.5432")
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, ".s.PGSQL.5432"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	trips = new(atomic.Int64)
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			go relay(client, server, trips)
		}
	}()
	query.Set("host", dir)
	u.RawQuery = query.Encode()
	return u.String(), trips
}

func relay(client net.Conn, server string, trips *atomic.Int64) {
	defer client.Close()
	up, err := net.Dial("unix", server)
	if err != nil {
		return
	}
	defer up.Close()
	go io.Copy(client, up)
	for head := make([]byte, 5)[:4]; ; head = head[:5] { // the first message has no type
		if _, err := io.ReadFull(client, head); err != nil {
			return
		}
		if len(head) == 5 && head[0] == 'S' {
			trips.Add(1)
		}
		size := int64(binary.BigEndian.Uint32(head[len(head)-4:])) - 4
		if _, err := up.Write(head); err != nil {
			return
		}
		if _, err := io.CopyN(up, client, size); err != nil {
			return
		}
	}
}
