package sqlite

import (
	"context"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
)

// failing is a statement that fails when it is told to.
type failing struct {
	driver.StmtExecContext
	next *atomic.Int64 // fails at each that this counts down to 0
	n    *atomic.Int64
}

var errDisk = errors.New("the disk is full")

func (f failing) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	if f.next.Add(-1) == 0 {
		f.n.Add(1)
		return nil, errDisk
	}
	return f.StmtExecContext.ExecContext(ctx, args)
}

const (
	agreeSessions = 16
	doomed        = "of a transition that fails"
)

var errTakenBack = errors.New("taken back")

// What is remembered is what the database has, for the writer amid its
// transaction and for readers after it, whatever fails, is taken back, deleted
// or put out for want of room.
func TestMemoryAgreesWithTheDatabase(t *testing.T) {
	s := open(t)
	var next, failed atomic.Int64
	commit, err := s.write.prepare("COMMIT")
	if err != nil {
		t.Fatal(err)
	}
	commit.exec = failing{commit.exec, &next, &failed}
	s.write.stmts["COMMIT"] = commit

	done := make(chan struct{})
	var looking, working sync.WaitGroup
	for range 2 {
		looking.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-done:
					return
				default:
				}
				got, err := s.Session(t.Context(), sessionID(i%agreeSessions))
				if err == nil && got.Title != nil && strings.HasPrefix(*got.Title, doomed) {
					t.Errorf("a reader sees %s what was taken back", got.ID)
					return
				}
			}
		})
	}
	for w := range 6 {
		working.Go(func() {
			r := rand.New(rand.NewPCG(7, uint64(w)))
			for range 150 {
				if r.IntN(12) == 0 {
					next.Store(1 + r.Int64N(3))
				}
				step, seed := transition(r), r.Uint64()
				err := s.Update(t.Context(), func(st store.Tx) error { return step(st.(*tx), rand.New(rand.NewPCG(seed, 0))) })
				if err != nil && !errors.Is(err, errTakenBack) && !errors.Is(err, errDisk) {
					t.Error(err)
					return
				}
			}
		})
	}
	working.Wait()
	close(done)
	looking.Wait()
	if failed.Load() == 0 {
		t.Error("no commit failed")
	}
	for i := range agreeSessions {
		id := sessionID(i)
		err := s.View(t.Context(), func(r store.Reader) error {
			want, e1 := r.Session(id)
			got, e2 := s.Session(t.Context(), id)
			differ(t, "a reader's session", e1, e2, want, got)
			w, err := r.LastWork(id)
			if err != nil || w.TokenID == "" {
				return nil
			}
			w, e1 = r.WorkByToken(w.TokenID)
			v, e2 := s.WorkByToken(t.Context(), w.TokenID)
			differ(t, "a reader's item", e1, e2, w, v)
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// A full shelf puts others out, and keeps nothing that fills an eighth of it.
func TestAShelfIsBounded(t *testing.T) {
	var s shelf
	for i := range 3 * maxRows {
		s.put(fmt.Sprint(i%(2*maxRows)), []driver.Value{strings.Repeat("x", i%(12<<10)), int64(i)})
		if i%100 == 0 || len(s.rows) > maxRows || s.bytes > maxBytes {
			n := 0
			for _, row := range s.rows {
				n += size(row)
			}
			if len(s.rows) > maxRows || s.bytes > maxBytes || n != s.bytes {
				t.Fatalf("%d rows of %d bytes, counted as %d", len(s.rows), n, s.bytes)
			}
		}
	}
	s.put("0", []driver.Value{"small"})
	if s.put("0", []driver.Value{strings.Repeat("x", maxBytes/8)}); s.rows["0"] != nil {
		t.Error("the row as it was stays where the new one is too large")
	}
}

func sessionID(i int) string { return fmt.Sprintf("sesn_%02d", i) }

func envOf(id string) string { return "env_" + id[len(id)-1:] }

func differ(t *testing.T, what string, e1, e2 error, want, got any) {
	t.Helper()
	if plane.KindOf(e1) != plane.KindOf(e2) || (e1 == nil) != (e2 == nil) {
		t.Errorf("%s: error %v, and %v in the database", what, e2, e1)
	} else if d := gocmp.Diff(want, got); e1 == nil && d != "" {
		t.Errorf("%s (-database +remembered):\n%.2000s", what, d)
	}
}

// agree compares what a transaction is told with what the database says in it.
func agree(t *tx, id string) error {
	var wrong error
	say := func(what string, e1, e2 error, want, got any) {
		if d := gocmp.Diff(want, got); (e1 == nil) != (e2 == nil) || e1 == nil && d != "" {
			wrong = errors.Join(wrong, fmt.Errorf("%s of %s: %v, and in the database %v (-database +remembered):\n%.2000s", what, id, e2, e1, d))
		}
	}
	want, e1 := t.Reader.Session(id)
	got, e2 := t.Session(id)
	say("the session", e1, e2, want, got)
	env, e1 := t.Reader.Environment(envOf(id))
	env2, e2 := t.Environment(envOf(id))
	say("the environment", e1, e2, env, env2)
	live, e1 := t.Reader.LiveWork(id)
	live2, e2 := t.LiveWork(id)
	say("the live item", e1, e2, live, live2)
	last, e1 := t.Reader.LastWork(id)
	last2, e2 := t.LastWork(id)
	say("the last item", e1, e2, last, last2)
	calls, e1 := t.Reader.OpenCalls(id)
	calls2, e2 := t.OpenCalls(id)
	say("the open calls", e1, e2, calls, calls2)
	for _, q := range []store.EventQuery{{Queued: true}, {}, {Desc: true, Limit: 2}, {Queued: true, Limit: 1}} {
		events, e1 := t.Reader.Events(id, q)
		events2, e2 := t.Events(id, q)
		say("the events", e1, e2, events, events2)
	}
	return wrong
}

// transition is a random one of one session.
func transition(r *rand.Rand) func(*tx, *rand.Rand) error {
	id := sessionID(r.IntN(agreeSessions))
	kind := r.IntN(12)
	fails := r.IntN(4) == 0
	count := r.Uint64()
	return func(t *tx, r *rand.Rand) error {
		putOut(t.s.memory, r)
		if err := change(t, r, id, kind, fmt.Sprintf("%016x", count)); err != nil && plane.KindOf(err) != plane.NotFound && plane.KindOf(err) != plane.Conflict {
			return err
		}
		if s, err := t.Session(id); err == nil && fails {
			title := doomed
			s.Title = &title
			if err := t.UpdateSession(s); err != nil {
				return err
			}
		}
		var wrong error
		for i := range 3 {
			wrong = errors.Join(wrong, agree(t, sessionID((int(id[6]-'0')+5*i)%agreeSessions)))
		}
		if wrong = errors.Join(wrong, agree(t, id)); wrong != nil {
			return wrong
		}
		if fails {
			return errTakenBack
		}
		return nil
	}
}

// putOut puts rows out as full shelves do.
func putOut(m *memories, r *rand.Rand) {
	for _, one := range m.all() {
		for id := range one.rows {
			if r.IntN(40) == 0 {
				one.drop(id)
			}
		}
		one.mu.Lock()
		for id := range one.committed.rows {
			if r.IntN(40) == 0 {
				one.committed.drop(id)
			}
		}
		one.mu.Unlock()
	}
	switch r.IntN(40) {
	case 0:
		clear(m.live)
	case 1:
		clear(m.pending)
	}
}

func change(t *tx, r *rand.Rand, id string, kind int, unique string) error {
	now := time.UnixMicro(r.Int64N(1 << 50)).UTC()
	if _, err := t.Environment(envOf(id)); err != nil {
		e := plane.Environment{Environment: api.Environment{ID: envOf(id), Type: "environment", Name: envOf(id), CreatedAt: now, UpdatedAt: now}}
		if err := t.InsertEnvironment(e); err != nil {
			return err
		}
	}
	s, err := t.LockSession(id)
	if err != nil {
		s = plane.Session{Session: api.Session{ID: id, Type: "session", EnvironmentID: envOf(id), Status: api.SessionIdle, Metadata: api.Metadata{"some": strings.Repeat("x", r.IntN(100))}, CreatedAt: now, UpdatedAt: now}, Turn: plane.TurnRest}
		return t.InsertSession(s)
	}
	live, liveErr := t.LiveWork(id)
	switch kind {
	case 0:
		return t.DeleteSession(id)
	case 1:
		if r.IntN(10) == 0 {
			if s.Status = api.SessionTerminated; r.IntN(2) == 0 {
				s.ArchivedAt = &now
			}
			return errors.Join(t.UpdateSession(s), t.DeleteEnvironment(envOf(id)))
		}
		e, err := t.LockEnvironment(envOf(id))
		e.Metadata = api.Metadata{"at": unique}
		return errors.Join(err, t.UpdateEnvironment(e))
	case 2, 3, 4:
		s.Emit++
		e := plane.StoredEvent{SessionID: id, ID: "sevt_" + unique, Type: api.TypeUserMessage, Emit: s.Emit, Body: json.RawMessage(`{}`)}
		if kind > 2 {
			s.Pos++
			e.Pos, e.ProcessedAt = s.Pos, &now
		}
		return errors.Join(t.InsertEvents(e), t.UpdateSession(s))
	case 5:
		queued, err := t.Events(id, store.EventQuery{Queued: true, Limit: 1})
		if err != nil || len(queued) == 0 {
			return err
		}
		s.Pos, s.Emit = s.Pos+1, s.Emit+1
		e := queued[0]
		e.Pos, e.Emit, e.ProcessedAt = s.Pos, s.Emit, &now
		return errors.Join(t.UpdateEvent(e), t.UpdateSession(s))
	case 6:
		return t.InsertCalls(plane.Call{SessionID: id, ID: "sevt_" + unique, Kind: plane.CallTool, Name: "bash", State: plane.CallOpen, Pos: r.Int64N(5)},
			plane.Call{SessionID: id, ID: "sevt_b" + unique, Kind: plane.CallTool, Name: "bash", State: plane.CallDenied, Pos: 9})
	case 7:
		calls, err := t.Calls(id)
		if err != nil || len(calls) == 0 {
			return err
		}
		c := calls[r.IntN(len(calls))]
		c.State = []plane.CallState{plane.CallAsked, plane.CallOpen, plane.CallAnswered, plane.CallVoid}[r.IntN(4)]
		return t.UpdateCall(c)
	case 8:
		return t.InsertWork(plane.WorkItem{ID: "work_" + unique, EnvironmentID: envOf(id), SessionID: id, State: api.WorkQueued, CreatedAt: now})
	case 9:
		live.TokenID, live.DeliveredAt, live.State = unique, &now, api.WorkStarting
		return errors.Join(liveErr, t.UpdateWork(live))
	case 10:
		live.State, live.StoppedAt = api.WorkStopped, &now
		return errors.Join(liveErr, t.UpdateWork(live), t.PruneWork(time.UnixMicro(r.Int64N(1<<50)), time.Time{}))
	}
	w, err := t.ClaimWork(store.Claim{Environment: envOf(id), Now: now, ReclaimBefore: now})
	if err != nil {
		return err
	}
	w.DeliveredAt = &now
	return t.UpdateWork(w)
}
