package postgres

import (
	"reflect"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/store/fold"
)

// Whose a note is stands in the note. The number of the backend that sent it
// says nothing: after a restart of the server another process's connection has
// the number that one of ours had.
func TestWhoseNoteItIs(t *testing.T) {
	hub := fold.StartHub()
	var heard []store.Note
	hub.Listen(func(n store.Note) { heard = append(heard, n) })
	e := &ears{hub: hub, self: "us"}
	notes := []store.Note{
		{Session: "sesn_1", Emit: 7},
		{Session: "sesn_1", Emit: 8, Turn: true, Environment: "env_1"},
		{Session: "sesn_2", Deleted: true},
		{Session: "sesn_3", Taken: true},
	}
	for _, sender := range []string{"us", "them"} {
		for _, said := range payloads(sender, notes) {
			e.heard(&pgconn.Notification{PID: 40, Channel: channel, Payload: said})
		}
	}
	e.heard(&pgconn.Notification{PID: 41, Channel: "other", Payload: "them q env_1"})
	e.heard(&pgconn.Notification{PID: 41, Channel: channel, Payload: "them"})
	hub.Stop()
	want := []store.Note{notes[0], {Session: "sesn_1", Emit: 8, Turn: true}, {Environment: "env_1"}, notes[2], notes[3]}
	if !reflect.DeepEqual(heard, want) {
		t.Errorf("heard %+v, want %+v", heard, want)
	}
}
