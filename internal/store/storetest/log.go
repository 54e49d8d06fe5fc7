package storetest

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
)

// event has a place, or is queued when pos is 0.
func event(session, id string, pos int64) plane.StoredEvent {
	e := plane.StoredEvent{SessionID: session, ID: id, Type: "user.message", Pos: pos, Emit: pos, Body: json.RawMessage(`{"id": "` + id + `", "z":1,"a":"\u0000"}`)}
	if pos > 0 {
		e.ProcessedAt = ptr(at(int(pos)))
	}
	return e
}

func ids(events []plane.StoredEvent) (out []string) {
	for _, e := range events {
		out = append(out, e.ID)
	}
	return out
}

func testEvents(t *testing.T, st store.Store) {
	world(t, st, "sesn_1", "sesn_2")
	all := []plane.StoredEvent{
		event("sesn_1", "sevt_d", 1), event("sesn_1", "sevt_a", 2), event("sesn_1", "sevt_c", 3),
		event("sesn_1", "sevt_f", 0), event("sesn_1", "sevt_b", 0), event("sesn_1", "sevt_e", 4), event("sesn_2", "sevt_x", 1),
	}
	update(t, st, func(tx store.Tx) error { return tx.InsertEvents(all...) })
	same(t, "one, byte for byte", see(t, st, func(r store.Reader) (plane.StoredEvent, error) { return r.Event("sesn_1", "sevt_a") }), all[1])

	view(t, st, func(r store.Reader) error {
		for _, c := range []struct {
			desc bool
			want []string
		}{
			{false, []string{"sevt_d", "sevt_a", "sevt_c", "sevt_e", "sevt_b", "sevt_f"}},
			{true, []string{"sevt_f", "sevt_b", "sevt_e", "sevt_c", "sevt_a", "sevt_d"}},
		} {
			for _, limit := range []int{0, 1, 2, 4, 5, 6, 7} {
				q := store.EventQuery{Desc: c.desc, Limit: limit}
				var got []string
				for range 8 {
					rows, err := r.Events("sesn_1", q)
					if err != nil {
						return err
					}
					if limit > 0 && len(rows) > limit {
						t.Fatalf("%d rows, limit %d", len(rows), limit)
					}
					got = append(got, ids(rows)...)
					if len(rows) == 0 || limit == 0 {
						break
					}
					last := rows[len(rows)-1]
					if q.AfterPos, q.AfterQueued = last.Pos, ""; last.Pos == 0 {
						q.AfterQueued = last.ID
					}
				}
				same(t, fmt.Sprintf("desc=%v limit=%d", c.desc, limit), got, c.want)
			}
		}
		return nil
	})

	placed := all[4]
	placed.Pos, placed.Emit, placed.ProcessedAt, placed.Body = 5, 6, ptr(at(60)), json.RawMessage(`{"processed":true}`)
	update(t, st, func(tx store.Tx) error { return tx.UpdateEvent(placed) })
	view(t, st, func(r store.Reader) error {
		rows, err := r.Events("sesn_1", store.EventQuery{AfterPos: 4})
		if err != nil {
			return err
		}
		same(t, "after it got its place", rows, []plane.StoredEvent{placed, all[3]})
		return nil
	})
	wantKind(t, "id twice", st.Update(t.Context(), func(tx store.Tx) error { return tx.InsertEvents(event("sesn_1", "sevt_a", 9)) }), plane.Conflict)
}

func testEventFilters(t *testing.T, st store.Store) {
	world(t, st, "sesn_1")
	update(t, st, func(tx store.Tx) error {
		for i, typ := range []string{"user.message", "agent.message", "user.interrupt", "agent.message", "user.message"} {
			e := event("sesn_1", fmt.Sprint("sevt_", i), int64(i+1))
			if i == 4 {
				e = event("sesn_1", "sevt_4", 0)
			}
			e.Type = typ
			if err := tx.InsertEvents(e); err != nil {
				return err
			}
		}
		return nil
	})
	view(t, st, func(r store.Reader) error {
		for _, c := range []struct {
			q    store.EventQuery
			want []string
		}{
			{store.EventQuery{Types: []string{"user.message"}}, []string{"sevt_0", "sevt_4"}},
			{store.EventQuery{Types: []string{"user.message", "user.interrupt"}, Desc: true}, []string{"sevt_4", "sevt_2", "sevt_0"}},
			{store.EventQuery{Types: []string{"no.such"}}, nil},
			{store.EventQuery{Processed: store.TimeRange{GT: at(1), LTE: at(3)}}, []string{"sevt_1", "sevt_2"}},
			{store.EventQuery{Processed: store.TimeRange{GTE: at(4)}}, []string{"sevt_3"}},
			{store.EventQuery{Processed: store.TimeRange{LT: at(2)}}, []string{"sevt_0"}},
			{store.EventQuery{AfterPos: 1, Types: []string{"agent.message"}, Limit: 1}, []string{"sevt_1"}},
			{store.EventQuery{Queued: true}, []string{"sevt_4"}},
			{store.EventQuery{Queued: true, Types: []string{"agent.message"}}, nil},
		} {
			rows, err := r.Events("sesn_1", c.q)
			if err != nil {
				return err
			}
			same(t, fmt.Sprintf("%+v", c.q), ids(rows), c.want)
		}
		return nil
	})
}

func testFrames(t *testing.T, st store.Store) {
	world(t, st, "sesn_1")
	update(t, st, func(tx store.Tx) error {
		// The second and third waited; the second got its place last.
		for i, at := range [][2]int64{{1, 1}, {3, 5}, {0, 3}, {2, 4}} {
			e := event("sesn_1", fmt.Sprint("sevt_", i), at[0])
			e.Emit = at[1]
			if err := tx.InsertEvents(e); err != nil {
				return err
			}
		}
		s, err := tx.LockSession("sesn_1")
		if err != nil {
			return err
		}
		s.Pos, s.Emit = 3, 5
		return tx.UpdateSession(s)
	})
	frames := func(after int64, limit int) []string {
		return ids(see(t, st, func(r store.Reader) ([]plane.StoredEvent, error) { return r.Frames("sesn_1", after, limit) }))
	}
	same(t, "all", frames(0, 0), []string{"sevt_0", "sevt_2", "sevt_3", "sevt_1"})
	same(t, "after", frames(3, 10), []string{"sevt_3", "sevt_1"})
	same(t, "limit", frames(1, 2), []string{"sevt_2", "sevt_3"})
	same(t, "none", frames(5, 10), []string(nil))
}

func testCalls(t *testing.T, st store.Store) {
	world(t, st, "sesn_1")
	var all []plane.Call
	for i, state := range []plane.CallState{plane.CallOpen, plane.CallAnswered, plane.CallAsked, plane.CallDenied, plane.CallVoid} {
		c := plane.Call{SessionID: "sesn_1", ID: fmt.Sprint("sevt_", 9-i), Kind: plane.CallTool, Name: "bash", State: state, Pos: int64(i + 1), RequestID: "sevt_r"}
		if state == plane.CallAnswered {
			c.AnswerID, c.AnswerDigest = "sevt_a", [32]byte{7}
		}
		all = append(all, c)
	}
	update(t, st, func(tx store.Tx) error { return tx.InsertCalls(all...) })
	read := func(f func(store.Reader) ([]plane.Call, error)) []plane.Call { return see(t, st, f) }
	same(t, "all, in log order", read(func(r store.Reader) ([]plane.Call, error) { return r.Calls("sesn_1") }), all)
	same(t, "open", read(func(r store.Reader) ([]plane.Call, error) { return r.OpenCalls("sesn_1") }), []plane.Call{all[0], all[2]})

	all[0].State, all[0].AnswerID, all[0].AnswerDigest = plane.CallAnswered, "sevt_b", [32]byte{8}
	update(t, st, func(tx store.Tx) error { return tx.UpdateCall(all[0]) })
	same(t, "answered", see(t, st, func(r store.Reader) (plane.Call, error) { return r.Call("sesn_1", "sevt_9") }), all[0])
	same(t, "still open", read(func(r store.Reader) ([]plane.Call, error) { return r.OpenCalls("sesn_1") }), []plane.Call{all[2]})
}

func testReplays(t *testing.T, st store.Store) {
	world(t, st, "sesn_1")
	all := []plane.Replay{
		{SessionID: "sesn_1", RequestID: "sevt_r1", Pos: 3, Provider: "anthropic", Content: json.RawMessage(`[{"type":"thinking","signature":"x"}]`), CallIDs: []string{"sevt_1", "sevt_2"}},
		{SessionID: "sesn_1", RequestID: "sevt_r2", Pos: 12, Provider: "scripted", Content: json.RawMessage(`[]`)},
	}
	update(t, st, func(tx store.Tx) error {
		if err := tx.InsertReplay(all[1]); err != nil {
			return err
		}
		return tx.InsertReplay(all[0])
	})
	read := func(after int64) []plane.Replay {
		return see(t, st, func(r store.Reader) ([]plane.Replay, error) { return r.Replays("sesn_1", after) })
	}
	same(t, "all", read(0), all)
	same(t, "after", read(3), all[1:])
}

func testSends(t *testing.T, st store.Store) {
	world(t, st, "sesn_1", "sesn_2")
	send := func(session, key string, seconds int) plane.Send {
		return plane.Send{SessionID: session, Key: key, Digest: [32]byte{byte(seconds)}, EventIDs: []string{"sevt_a", "sevt_b"}, At: at(seconds)}
	}
	all := []plane.Send{send("sesn_1", "Key", 1), send("sesn_1", "key", 2), send("sesn_2", "Key", 3)}
	update(t, st, func(tx store.Tx) error {
		for _, s := range all {
			if err := tx.InsertSend(s); err != nil {
				return err
			}
		}
		return nil
	})
	for _, want := range all {
		same(t, "a send", see(t, st, func(r store.Reader) (plane.Send, error) { return r.Send(want.SessionID, want.Key) }), want)
	}
	wantKind(t, "a key twice", st.Update(t.Context(), func(tx store.Tx) error { return tx.InsertSend(all[0]) }), plane.Conflict)
	update(t, st, func(tx store.Tx) error { return tx.PruneSends("sesn_1", at(2)) })
	view(t, st, func(r store.Reader) error {
		_, err := r.Send("sesn_1", "Key")
		wantKind(t, "one that was pruned", err, plane.NotFound)
		for _, s := range all[1:] {
			if _, err := r.Send(s.SessionID, s.Key); err != nil {
				return err
			}
		}
		return nil
	})
	update(t, st, func(tx store.Tx) error { return tx.DeleteSession("sesn_2") })
	view(t, st, func(r store.Reader) error {
		_, err := r.Send("sesn_2", "Key")
		wantKind(t, "one of a deleted session", err, plane.NotFound)
		return nil
	})
}
