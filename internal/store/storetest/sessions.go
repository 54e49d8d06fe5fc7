package storetest

import (
	"encoding/json"
	"strconv"
	"testing"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
)

func testSessions(t *testing.T, st store.Store) {
	world(t, st, "sesn_1")
	read := func(r store.Reader) (plane.Session, error) { return r.Session("sesn_1") }
	want := Session("sesn_1", "env_1", at(0))
	same(t, "as inserted", see(t, st, read), want)

	// The steps of a turn.
	want.Status, want.UpdatedAt, want.ArchivedAt = api.SessionRunning, at(1), ptr(at(2))
	want.Pos, want.Emit, want.LastProcessedAt = 7, 9, at(3)
	want.Turn, want.TurnOwner, want.TurnFence, want.TurnUntil, want.TurnSince = plane.TurnWanted, "replica", 3, at(4), ptr(at(5))
	want.StopReason, want.HasInput, want.LastInputAt = "requires_action", true, ptr(at(6))
	want.Stats = api.SessionStats{ActiveSeconds: 1.5, DurationSeconds: 2}
	want.Usage = api.SessionUsage{InputTokens: 10, OutputTokens: 20, CacheReadInputTokens: 5, CacheCreation: api.CacheCreation{Ephemeral5mInputTokens: 1}}
	change := func(to plane.Session) {
		t.Helper()
		update(t, st, func(tx store.Tx) error {
			if _, err := tx.LockSession("sesn_1"); err != nil {
				return err
			}
			return tx.UpdateSession(to)
		})
	}
	change(want)
	same(t, "after a step", see(t, st, read), want)

	// And what seldom changes.
	want.Title, want.Metadata, want.VaultIDs = nil, api.Metadata{"a": "b", "c": "d"}, []string{"vlt_1"}
	want.Resources, want.Budget, want.DeploymentID = []json.RawMessage{json.RawMessage(`{"type":"file"}`)}, json.RawMessage(`{"usd":1}`), ptr("depl_1")
	want.Agent.Tools = want.Agent.Tools[:1]
	change(want)
	same(t, "after an update", see(t, st, read), want)
	update(t, st, func(tx store.Tx) error { return tx.UpdateSession(want) }) // not locked before
	same(t, "after the same again", see(t, st, read), want)

	wantKind(t, "twice", st.Update(t.Context(), func(tx store.Tx) error { return tx.InsertSession(want) }), plane.Conflict)
}

func testSessionLists(t *testing.T, st store.Store) {
	world(t, st)
	update(t, st, func(tx store.Tx) error {
		if err := tx.InsertEnvironment(Environment("env_2", "two", at(0))); err != nil {
			return err
		}
		for i := range 6 {
			s := Session("sesn_"+strconv.Itoa(i), "env_1", at(i))
			switch i {
			case 1:
				s.Status = api.SessionRunning
			case 2:
				s.ArchivedAt = ptr(at(9))
			case 3:
				s.EnvironmentID, s.Agent.Version = "env_2", 2
			case 4:
				s.Status, s.Agent.ID = api.SessionTerminated, "agent_other"
			}
			if err := tx.InsertSession(s); err != nil {
				return err
			}
		}
		return nil
	})
	id := func(s plane.Session) string { return s.ID }
	view(t, st, func(r store.Reader) error {
		for _, c := range []struct {
			f    store.SessionFilter
			want []string // newest first
		}{
			{store.SessionFilter{}, []string{"sesn_5", "sesn_4", "sesn_3", "sesn_1", "sesn_0"}},
			{store.SessionFilter{IncludeArchived: true}, []string{"sesn_5", "sesn_4", "sesn_3", "sesn_2", "sesn_1", "sesn_0"}},
			{store.SessionFilter{EnvironmentID: "env_2"}, []string{"sesn_3"}},
			{store.SessionFilter{AgentID: "agent_other"}, []string{"sesn_4"}},
			{store.SessionFilter{AgentID: "agent_plain", AgentVersion: 2}, []string{"sesn_3"}},
			{store.SessionFilter{Statuses: []api.SessionStatus{api.SessionRunning, api.SessionTerminated}}, []string{"sesn_4", "sesn_1"}},
			{store.SessionFilter{Created: store.TimeRange{GT: at(1)}}, []string{"sesn_5", "sesn_4", "sesn_3"}},
			{store.SessionFilter{Created: store.TimeRange{GTE: at(1), LT: at(4)}}, []string{"sesn_3", "sesn_1"}},
			{store.SessionFilter{Created: store.TimeRange{LTE: at(1)}, EnvironmentID: "env_1"}, []string{"sesn_1", "sesn_0"}},
			{store.SessionFilter{EnvironmentID: "env_none"}, nil},
		} {
			list := func(w store.Window) ([]plane.Session, error) { return r.Sessions(c.f, w) }
			pages(t, id, list, false, c.want)
			var up []string
			for i := len(c.want) - 1; i >= 0; i-- {
				up = append(up, c.want[i])
			}
			pages(t, id, list, true, up)
		}
		n, err := r.LiveSessions("env_1")
		same(t, "live sessions", n, 3)
		return err
	})
}

func testSessionsWanted(t *testing.T, st store.Store) {
	world(t, st)
	update(t, st, func(tx store.Tx) error {
		for i, until := range []time.Time{{}, at(10), at(20), at(30)} {
			s := Session("sesn_"+strconv.Itoa(i), "env_1", at(0))
			s.Turn, s.TurnUntil = plane.TurnWanted, until
			if i == 2 {
				s.Turn = plane.TurnCalls
			}
			if err := tx.InsertSession(s); err != nil {
				return err
			}
		}
		return nil
	})
	wanted := func(now time.Time, limit int) []string {
		return see(t, st, func(r store.Reader) ([]string, error) { return r.SessionsWanted(now, limit) })
	}
	same(t, "no lease", wanted(at(9), 10), []string{"sesn_0"})
	same(t, "lease at its end", wanted(at(10), 10), []string{"sesn_0", "sesn_1"})
	same(t, "limit", wanted(at(40), 2), []string{"sesn_0", "sesn_1"})
	same(t, "later", wanted(at(40), 10), []string{"sesn_0", "sesn_1", "sesn_3"})
}

func testSessionDelete(t *testing.T, st store.Store) {
	world(t, st, "sesn_1", "sesn_2")
	update(t, st, func(tx store.Tx) error {
		for _, s := range []string{"sesn_1", "sesn_2"} {
			if err := tx.InsertEvents(event(s, "sevt_1", 1)); err != nil {
				return err
			}
			if err := tx.InsertCalls(plane.Call{SessionID: s, ID: "sevt_1", Kind: plane.CallTool, State: plane.CallOpen, Pos: 1}); err != nil {
				return err
			}
			if err := tx.InsertReplay(plane.Replay{SessionID: s, Pos: 1, Content: json.RawMessage(`[]`)}); err != nil {
				return err
			}
			if err := tx.InsertWork(item("work_"+s, s, 0)); err != nil {
				return err
			}
		}
		return nil
	})
	update(t, st, func(tx store.Tx) error {
		if _, err := tx.LockSession("sesn_1"); err != nil {
			return err
		}
		return tx.DeleteSession("sesn_1")
	})
	view(t, st, func(r store.Reader) error {
		for _, c := range []struct {
			session string
			want    int
		}{{"sesn_1", 0}, {"sesn_2", 1}} {
			events, err := r.Events(c.session, store.EventQuery{})
			if err != nil {
				return err
			}
			calls, err := r.Calls(c.session)
			if err != nil {
				return err
			}
			replays, err := r.Replays(c.session, 0)
			if err != nil {
				return err
			}
			if len(events) != c.want || len(calls) != c.want || len(replays) != c.want {
				t.Errorf("%s has %d events, %d calls, %d replays", c.session, len(events), len(calls), len(replays))
			}
		}
		for _, id := range []string{"work_sesn_1", "work_sesn_2"} {
			if _, err := r.Work(id); err != nil { // an item outlives its session
				return err
			}
		}
		return nil
	})
}
