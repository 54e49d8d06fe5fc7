package storetest

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
)

// testModel runs random small transactions, some of which fail at their end,
// and compares what the store then shows with a model of maps.
func testModel(t *testing.T, st store.Store) {
	world(t, st)
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		m := model{prefix: fmt.Sprintf("r%04d_", run), sessions: map[string]plane.Session{}, events: map[string][]plane.StoredEvent{},
			calls: map[string][]plane.Call{}, work: map[string]plane.WorkItem{}}
		for range rapid.IntRange(1, 12).Draw(rt, "transactions") {
			next := m.clone()
			var steps []func(store.Tx) error
			for range rapid.IntRange(1, 4).Draw(rt, "steps") {
				if step := next.step(rt); step != nil {
					steps = append(steps, step, next.waits())
				}
			}
			fails := rapid.IntRange(0, 3).Draw(rt, "fails") == 0
			err := st.Update(t.Context(), func(tx store.Tx) error {
				for _, step := range steps {
					if err := step(tx); err != nil {
						return err
					}
				}
				if fails {
					return errOwn
				}
				return nil
			})
			switch {
			case fails && err == errOwn:
			case !fails && err == nil:
				m = next
			default:
				rt.Fatalf("error %v", err)
			}
			m.check(rt, st)
		}
	})
}

type model struct {
	prefix   string
	count    int
	sessions map[string]plane.Session
	events   map[string][]plane.StoredEvent
	calls    map[string][]plane.Call
	work     map[string]plane.WorkItem
}

func (m model) clone() model {
	m.sessions, m.work = maps.Clone(m.sessions), maps.Clone(m.work)
	events := map[string][]plane.StoredEvent{}
	for id, rows := range m.events {
		events[id] = slices.Clone(rows)
	}
	m.events, m.calls = events, maps.Clone(m.calls)
	for id, rows := range m.calls {
		m.calls[id] = slices.Clone(rows)
	}
	return m
}

// waits compares what waits in each session, as the transaction sees it, with
// the model as it is now.
func (m *model) waits() func(store.Tx) error {
	now := m.clone()
	return func(tx store.Tx) error {
		for id := range now.sessions {
			var queued []string
			for _, e := range now.events[id] {
				if e.Pos == 0 {
					queued = append(queued, e.ID)
				}
			}
			rows, err := tx.Events(id, store.EventQuery{Queued: true})
			if err != nil {
				return err
			}
			var got []string
			for _, e := range rows {
				got = append(got, e.ID)
			}
			if d := gocmp.Diff(queued, got); d != "" {
				return fmt.Errorf("queued events of %s (-want +got):\n%s", id, d)
			}
			all, err := tx.Events(id, store.EventQuery{})
			if err != nil {
				return err
			}
			if len(all) != len(now.events[id]) {
				return fmt.Errorf("%s has %d events, not %d", id, len(all), len(now.events[id]))
			}
			open, err := tx.OpenCalls(id)
			if err != nil {
				return err
			}
			if d := gocmp.Diff(now.open(id), open); d != "" {
				return fmt.Errorf("open calls of %s (-want +got):\n%s", id, d)
			}
			for _, c := range now.calls[id] {
				if got, err := tx.Call(id, c.ID); err != nil || got != c {
					return fmt.Errorf("call %+v, not %+v: %w", got, c, err)
				}
			}
			live, err := tx.LiveWork(id)
			if err != nil && plane.KindOf(err) != plane.NotFound {
				return err
			}
			if d := gocmp.Diff(now.live(id), live); d != "" {
				return fmt.Errorf("live item of %s (-want +got):\n%s", id, d)
			}
			if live.ID == "" {
				continue
			}
			locked, calls, err := tx.LockWorkCalls(live.ID)
			if err != nil {
				return err
			}
			if d := gocmp.Diff(live, locked) + gocmp.Diff(open, calls); d != "" {
				return fmt.Errorf("locked item of %s and its open calls (-want +got):\n%s", id, d)
			}
		}
		return nil
	}
}

func (m *model) open(session string) (open []plane.Call) {
	for _, c := range m.calls[session] {
		if c.Open() {
			open = append(open, c)
		}
	}
	return open
}

// live is a session's item that is not stopped.
func (m *model) live(session string) plane.WorkItem {
	for _, w := range m.work {
		if w.SessionID == session && w.State != api.WorkStopped {
			return w
		}
	}
	return plane.WorkItem{}
}

func (m *model) id(kind string) string {
	m.count++
	return fmt.Sprintf("%s_%s%04d", kind, m.prefix, m.count)
}

// step changes the model and gives the same change for the store, nil where
// there is nothing to change.
func (m *model) step(rt *rapid.T) func(store.Tx) error {
	session := ""
	if len(m.sessions) > 0 {
		session = rapid.SampledFrom(slices.Sorted(maps.Keys(m.sessions))).Draw(rt, "session")
	}
	kind := rapid.SampledFrom([]string{"create", "append", "queue", "process", "title", "delete", "call", "settle", "offer", "hand", "stop"}).Draw(rt, "kind")
	switch {
	case session == "" || kind == "create":
		s := Session(m.id("sesn"), "env_1", at(m.count))
		m.sessions[s.ID] = s
		return func(tx store.Tx) error { return tx.InsertSession(s) }
	case kind == "title":
		return m.entitle(session, rapid.StringMatching(`[a-zé"\\ ]{0,8}`).Draw(rt, "title"))
	case kind == "delete":
		delete(m.sessions, session)
		delete(m.events, session)
		delete(m.calls, session)
		return func(tx store.Tx) error { return tx.DeleteSession(session) }
	case kind == "append" || kind == "queue":
		return m.addEvent(session, kind == "append")
	case kind == "process":
		return m.process(session)
	case kind == "call":
		return m.addCall(session, rapid.SampledFrom([]plane.CallState{plane.CallAsked, plane.CallOpen, plane.CallDenied}).Draw(rt, "state"))
	case kind == "settle" && len(m.calls[session]) > 0:
		return m.settle(rt, &m.calls[session][rapid.IntRange(0, len(m.calls[session])-1).Draw(rt, "call")])
	}
	live := m.live(session).ID
	switch {
	case kind == "offer" && live == "":
		w := item(m.id("work"), session, m.count)
		w.HasInput = rapid.Bool().Draw(rt, "input")
		m.work[w.ID] = w
		return func(tx store.Tx) error { return tx.InsertWork(w) }
	case kind == "hand" && live != "":
		return m.hand(live)
	case kind == "stop" && live != "":
		return m.stop(live)
	}
	return nil
}

// locked does something to a session whose lock is held, and which must be as
// the model has it now.
func (m *model) locked(session string, then func(tx store.Tx) error) func(store.Tx) error {
	want := m.sessions[session]
	return func(tx store.Tx) error {
		got, err := tx.LockSession(session)
		if err != nil {
			return err
		}
		if d := gocmp.Diff(want, got); d != "" {
			return fmt.Errorf("locked session (-want +got):\n%s", d)
		}
		return then(tx)
	}
}

func (m *model) entitle(session, title string) func(store.Tx) error {
	s := m.sessions[session]
	s.Title = &title
	step := m.locked(session, func(tx store.Tx) error { return tx.UpdateSession(s) })
	m.sessions[session] = s
	return step
}

// addEvent adds an event, which has its place or waits.
func (m *model) addEvent(session string, placed bool) func(store.Tx) error {
	s, e := m.sessions[session], event(session, m.id("sevt"), 0)
	s.Emit++
	if placed {
		s.Pos++
		e.Pos, e.ProcessedAt = s.Pos, ptr(at(int(s.Pos)))
	}
	e.Emit = s.Emit
	step := m.locked(session, func(tx store.Tx) error {
		if err := tx.InsertEvents(e); err != nil {
			return err
		}
		return tx.UpdateSession(s)
	})
	m.events[session], m.sessions[session] = append(m.events[session], e), s
	return step
}

// process gives the first event that waits its place.
func (m *model) process(session string) func(store.Tx) error {
	i := slices.IndexFunc(m.events[session], func(e plane.StoredEvent) bool { return e.Pos == 0 })
	if i < 0 {
		return nil
	}
	s, e := m.sessions[session], m.events[session][i]
	s.Pos++
	s.Emit++
	e.Pos, e.Emit, e.ProcessedAt = s.Pos, s.Emit, ptr(at(int(s.Pos)))
	m.events[session][i], m.sessions[session] = e, s
	return func(tx store.Tx) error {
		if err := tx.UpdateEvent(e); err != nil {
			return err
		}
		return tx.UpdateSession(s)
	}
}

func (m *model) addCall(session string, state plane.CallState) func(store.Tx) error {
	c := plane.Call{SessionID: session, ID: m.id("sevt"), Kind: plane.CallTool, Name: "bash", State: state, Pos: int64(m.count)}
	m.calls[session] = append(m.calls[session], c)
	return func(tx store.Tx) error { return tx.InsertCalls(c) }
}

func (m *model) settle(rt *rapid.T, c *plane.Call) func(store.Tx) error {
	c.State = rapid.SampledFrom([]plane.CallState{plane.CallAsked, plane.CallOpen, plane.CallAnswered, plane.CallVoid}).Draw(rt, "state")
	c.AnswerID, c.AnswerDigest = m.id("sevt"), [32]byte{byte(m.count)}
	settled := *c
	return func(tx store.Tx) error { return tx.UpdateCall(settled) }
}

// hand delivers an item.
func (m *model) hand(id string) func(store.Tx) error {
	w := m.work[id]
	w.TokenID, w.TokenHash, w.DeliveredAt = m.prefix+fmt.Sprint(m.count), [32]byte{1}, ptr(at(m.count))
	m.count++
	m.work[id] = w
	return func(tx store.Tx) error { return tx.UpdateWork(w) }
}

func (m *model) stop(id string) func(store.Tx) error {
	w := m.work[id]
	w.State, w.StoppedAt = api.WorkStopped, ptr(at(m.count))
	m.work[id] = w
	return func(tx store.Tx) error {
		if _, err := tx.LockWork(id); err != nil {
			return err
		}
		return tx.UpdateWork(w)
	}
}

func (m *model) check(rt *rapid.T, st store.Store) {
	differ := func(what string, got, want any) {
		if d := gocmp.Diff(want, got); d != "" {
			rt.Fatalf("%s (-want +got):\n%s", what, d)
		}
	}
	for id, s := range m.sessions {
		got, err := st.Session(rt.Context(), id)
		if err != nil {
			rt.Fatal(err)
		}
		differ("session "+id, got, s)
	}
	for _, w := range m.work {
		if w.TokenID == "" {
			continue
		}
		got, err := st.WorkByToken(rt.Context(), w.TokenID)
		if err != nil {
			rt.Fatal(err)
		}
		differ("item of a token", got, w)
	}
	err := st.View(rt.Context(), func(r store.Reader) error {
		var want []plane.Session
		for _, id := range slices.Sorted(maps.Keys(m.sessions)) {
			want = append(want, m.sessions[id])
		}
		all, err := r.Sessions(store.SessionFilter{}, store.Window{After: "sesn_" + m.prefix, Asc: true})
		if err != nil {
			return err
		}
		differ("sessions", all, want)
		var queue []plane.WorkItem
		for id := range m.sessions {
			events := slices.Clone(m.events[id])
			slices.SortFunc(events, func(a, b plane.StoredEvent) int {
				if (a.Pos == 0) != (b.Pos == 0) {
					return cmp.Compare(b.Pos, a.Pos)
				}
				return cmp.Or(cmp.Compare(a.Pos, b.Pos), cmp.Compare(a.ID, b.ID))
			})
			rows, err := r.Events(id, store.EventQuery{})
			if err != nil {
				return err
			}
			differ("events of "+id, rows, events)
			slices.SortFunc(events, func(a, b plane.StoredEvent) int { return cmp.Compare(a.Emit, b.Emit) })
			for after := range m.sessions[id].Emit {
				if rows, err = r.Frames(id, after, 0); err != nil {
					return err
				}
				for len(events) > 0 && events[0].Emit <= after {
					events = events[1:]
				}
				differ(fmt.Sprintf("frames of %s after %d", id, after), rows, events)
			}
		}
		for _, id := range slices.Sorted(maps.Keys(m.work)) {
			queue = append(queue, m.work[id])
		}
		items, err := r.WorkItems("env_1", store.Window{After: "work_" + m.prefix, Asc: true})
		if err != nil {
			return err
		}
		differ("work", items, queue)
		return nil
	})
	if err != nil {
		rt.Fatal(err)
	}
}
