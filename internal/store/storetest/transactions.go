package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
)

func setting(t testing.TB, st store.Store, name string) string {
	t.Helper()
	return see(t, st, func(r store.Reader) (string, error) { return r.Setting(name) })
}

// hold occupies every lane of the writer until release, so that what is sent
// meanwhile waits together. It returns once they are occupied.
func hold(st store.Store) (release func()) {
	out := make(chan struct{})
	var holders sync.WaitGroup
	for range st.(interface{ Lanes() int }).Lanes() {
		in := make(chan struct{})
		holders.Go(func() {
			st.Update(context.Background(), func(store.Tx) error {
				close(in)
				<-out
				return nil
			})
		})
		<-in
	}
	return func() {
		close(out)
		holders.Wait()
	}
}

// group sends the transitions while the writer is held, in order, and gives
// their errors.
func group(st store.Store, fns ...func(store.Tx) error) []error {
	release := hold(st)
	errs := make([]error, len(fns))
	var wg sync.WaitGroup
	for i, fn := range fns {
		queued := make(chan struct{})
		ctx := announce{Context: context.Background(), asked: queued}
		wg.Go(func() { errs[i] = st.Update(&ctx, fn) })
		<-queued
	}
	release()
	wg.Wait()
	return errs
}

// announce is a context that says when somebody begins to wait on it, which
// Update does once its transition is queued.
type announce struct {
	context.Context
	once  sync.Once
	asked chan struct{}
}

func (a *announce) Done() <-chan struct{} {
	a.once.Do(func() { close(a.asked) })
	return a.Context.Done()
}

func set(name, value string) func(store.Tx) error {
	return func(tx store.Tx) error { return tx.SetSetting(name, value) }
}

// split says that a store has several lanes, which may share a group of
// transitions between them: what is said of one group cannot be seen then.
func split(st store.Store) bool { return st.(interface{ Lanes() int }).Lanes() > 1 }

var errOwn = errors.New("the transition's own error")

func testUpdateUndone(t *testing.T, st store.Store) {
	err := st.Update(t.Context(), func(tx store.Tx) error {
		if err := tx.SetSetting("a", "1"); err != nil {
			return err
		}
		if got, err := tx.Setting("a"); err != nil || got != "1" {
			t.Errorf("read its own write as %q, %v", got, err)
		}
		return errOwn
	})
	if err != errOwn {
		t.Errorf("error %v, want the transition's, as it is", err)
	}
	same(t, "setting", setting(t, st, "a"), "")
}

// Many at once need far fewer commits.
func testUpdateTogether(t *testing.T, st store.Store) {
	commits := st.(interface{ Commits() int64 }).Commits
	before := commits()
	const n = 400
	all := make([]func(store.Tx) error, n)
	for i := range all {
		all[i] = set(fmt.Sprint("s", i), "1")
	}
	for _, err := range group(st, all...) {
		if err != nil {
			t.Error(err)
		}
	}
	if c := commits() - before; c > n/4 {
		t.Errorf("%d commits for %d transitions", c, n)
	}
	for i := range n {
		if got := setting(t, st, fmt.Sprint("s", i)); got != "1" {
			t.Fatalf("setting %d is %q", i, got)
		}
	}
}

// A transition that fails before it wrote leaves its group alone.
func testUpdateDropsOut(t *testing.T, st store.Store) {
	if split(st) {
		return
	}
	var runs [3]atomic.Int32
	commits := st.(interface{ Commits() int64 }).Commits
	before := commits()
	errs := group(st,
		func(tx store.Tx) error { runs[0].Add(1); return tx.SetSetting("a", "1") },
		func(tx store.Tx) error {
			runs[1].Add(1)
			if got, err := tx.Setting("a"); err != nil || got != "1" {
				return fmt.Errorf("the transition before is not seen: %q, %w", got, err)
			}
			tx.Notify(store.Note{Session: "never"})
			return errOwn
		},
		func(tx store.Tx) error { runs[2].Add(1); return tx.SetSetting("c", "3") })
	if errs[0] != nil || errs[1] != errOwn || errs[2] != nil {
		t.Fatalf("errors %v", errs)
	}
	for i := range runs {
		if n := runs[i].Load(); n != 1 {
			t.Errorf("transition %d ran %d times", i, n)
		}
	}
	if c := commits() - before; c > 2 { // the holder's, at most, and the group's
		t.Errorf("%d commits", c)
	}
	same(t, "first", setting(t, st, "a"), "1")
	same(t, "last", setting(t, st, "c"), "3")
}

// A transition that fails after it wrote takes nothing from the others.
func testUpdateAlone(t *testing.T, st store.Store) {
	var n [3]int
	errs := group(st,
		func(tx store.Tx) error { n[0]++; return tx.SetSetting("a", fmt.Sprint(n[0])) },
		func(tx store.Tx) error {
			n[1]++
			if err := tx.SetSetting("b", "1"); err != nil {
				return err
			}
			if _, err := tx.Setting("b"); err != nil { // sends the write on its way
				return err
			}
			return errOwn
		},
		func(tx store.Tx) error {
			n[2]++
			return tx.InsertEnvironment(Environment("env_1", "one", at(0)))
		})
	if errs[0] != nil || errs[1] != errOwn || errs[2] != nil {
		t.Fatalf("errors %v", errs)
	}
	if !split(st) {
		if n[2] == 2 { // beside the one that failed
			n[2] = 1
		}
		same(t, "runs", n, [3]int{2, 2, 1})
		same(t, "first", setting(t, st, "a"), "2")
	}
	same(t, "undone", setting(t, st, "b"), "")
	view(t, st, func(r store.Reader) error { _, err := r.Environment("env_1"); return err })

	// The same when it is the database that says no.
	errs = group(st,
		set("a", "again"),
		func(tx store.Tx) error { return tx.InsertEnvironment(Environment("env_2", "one", at(0))) },
		set("c", "3"))
	if errs[0] != nil || errs[2] != nil {
		t.Fatalf("errors %v", errs)
	}
	wantKind(t, "name taken", errs[1], plane.Conflict)
	same(t, "before it", setting(t, st, "a"), "again")
	same(t, "after it", setting(t, st, "c"), "3")
}

func testUpdatePanic(t *testing.T, st store.Store) {
	errs := group(st,
		set("a", "1"),
		func(tx store.Tx) error {
			if err := tx.SetSetting("b", "1"); err != nil {
				return err
			}
			panic("at the disco")
		},
		set("c", "3"))
	if errs[0] != nil || errs[2] != nil {
		t.Fatalf("errors %v", errs)
	}
	wantKind(t, "panic", errs[1], plane.Internal)
	if !strings.Contains(errs[1].Error(), "at the disco") {
		t.Errorf("error %q does not name the panic", errs[1])
	}
	same(t, "before", setting(t, st, "a"), "1")
	same(t, "undone", setting(t, st, "b"), "")
	same(t, "after", setting(t, st, "c"), "3")
}

func testUpdateCancelled(t *testing.T, st store.Store) {
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(errOwn)
	if err := st.Update(ctx, func(store.Tx) error { t.Error("ran"); return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}

	// Cancelled while it waits: the caller need not wait for the writer.
	release := hold(st)
	ctx, cancel = context.WithCancelCause(context.Background())
	waiting := announce{Context: ctx, asked: make(chan struct{})}
	done := make(chan error)
	go func() { done <- st.Update(&waiting, func(store.Tx) error { t.Error("ran"); return nil }) }()
	<-waiting.asked
	cancel(errOwn)
	if err := <-done; !errors.Is(err, errOwn) {
		t.Errorf("error %v, want the cause", err)
	}
	release()
	update(t, st, set("a", "1"))
}

func testUpdateReadsItsWrites(t *testing.T, st store.Store) {
	world(t, st, "sesn_1")
	update(t, st, func(tx store.Tx) error {
		s, err := tx.LockSession("sesn_1")
		if err != nil {
			return err
		}
		s.Pos = 1
		if err := tx.InsertEvents(event("sesn_1", "sevt_1", 1)); err != nil {
			return err
		}
		if err := tx.UpdateSession(s); err != nil {
			return err
		}
		if err := tx.InsertWork(item("work_1", "sesn_1", 0)); err != nil {
			return err
		}
		rows, err := tx.Events("sesn_1", store.EventQuery{})
		if err != nil {
			return err
		}
		same(t, "events", ids(rows), []string{"sevt_1"})
		if s, err = tx.Session("sesn_1"); err != nil {
			return err
		}
		same(t, "pos", s.Pos, int64(1))
		_, err = tx.LiveWork("sesn_1")
		return err
	})
}

// No update is lost between transitions that change the same row, and a
// session's rare and frequent fields do not overwrite each other.
func testUpdateCounts(t *testing.T, st store.Store) {
	world(t, st, "sesn_1")
	var wg sync.WaitGroup
	const n = 50
	for i := range 2 * n {
		wg.Go(func() {
			err := st.Update(context.Background(), func(tx store.Tx) error {
				s, err := tx.LockSession("sesn_1")
				if err != nil {
					return err
				}
				if i%2 == 0 {
					s.Pos++
				} else {
					s.Metadata = map[string]string{"title": *s.Title + "+"}
					s.Title = ptr(*s.Title + "+")
				}
				return tx.UpdateSession(s)
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	s := see(t, st, func(r store.Reader) (plane.Session, error) { return r.Session("sesn_1") })
	same(t, "pos", s.Pos, int64(n))
	same(t, "title", *s.Title, "a title"+strings.Repeat("+", n))
}

// A view sees one state, however long it looks, and holds nobody up.
func testViewSnapshot(t *testing.T, st store.Store) {
	update(t, st, set("a", "1"))
	view(t, st, func(r store.Reader) error {
		if got, err := r.Setting("a"); err != nil || got != "1" {
			return fmt.Errorf("%q, %w", got, err)
		}
		update(t, st, func(tx store.Tx) error {
			if err := tx.SetSetting("a", "2"); err != nil {
				return err
			}
			return tx.SetSetting("b", "2")
		})
		a, err := r.Setting("a")
		if err != nil {
			return err
		}
		b, err := r.Setting("b")
		same(t, "while it looks", a+"/"+b, "1/")
		return err
	})
	same(t, "the next view", setting(t, st, "a"), "2")
	if err := st.View(t.Context(), func(store.Reader) error { return errOwn }); err != errOwn {
		t.Errorf("error %v, want the view's own", err)
	}
}

func testNotes(t *testing.T, st store.Store) {
	world(t, st, "sesn_1")
	heard := make(chan store.Note, 1000)
	cancel := st.Listen(func(n store.Note) {
		// What is announced is there.
		if n.Session != "" {
			err := st.View(context.Background(), func(r store.Reader) error {
				_, err := r.Event(n.Session, fmt.Sprintf("sevt_%03d", n.Emit))
				return err
			})
			if err != nil {
				t.Errorf("note %d before its event: %v", n.Emit, err)
			}
		}
		heard <- n
	})
	defer cancel()
	var wg sync.WaitGroup
	const n = 100
	for range n {
		wg.Go(func() {
			err := st.Update(context.Background(), func(tx store.Tx) error {
				s, err := tx.LockSession("sesn_1")
				if err != nil {
					return err
				}
				s.Emit++
				e := event("sesn_1", fmt.Sprintf("sevt_%03d", s.Emit), s.Emit)
				if err := tx.InsertEvents(e); err != nil {
					return err
				}
				tx.Notify(store.Note{Session: "sesn_1", Emit: s.Emit, Frames: []plane.StoredEvent{e}, Turn: true})
				return tx.UpdateSession(s)
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for i := range int64(n) {
		got := <-heard
		if got.Emit != i+1 || !got.Local || !got.Turn || len(got.Frames) != 1 || got.Lost {
			t.Fatalf("note %d is %+v", i+1, got)
		}
	}
	update(t, st, func(tx store.Tx) error {
		tx.Notify(store.Note{Environment: "env_1"})
		return tx.SetSetting("a", "1")
	})
	same(t, "environment", <-heard, store.Note{Environment: "env_1", Local: true})
}

func testNotesOfTheUndone(t *testing.T, st store.Store) {
	heard := make(chan store.Note, 100)
	defer st.Listen(func(n store.Note) { heard <- n })()
	note := func(name string, err error, write bool) func(store.Tx) error {
		return func(tx store.Tx) error {
			tx.Notify(store.Note{Environment: name})
			if write {
				if err := tx.SetSetting(name, "1"); err != nil {
					return err
				}
				if _, err := tx.Setting(name); err != nil {
					return err
				}
			}
			return err
		}
	}
	group(st, note("a", nil, true), note("b", errOwn, false), note("c", nil, true))
	group(st, note("d", nil, true), note("e", errOwn, true), note("f", nil, true))
	var got []string
	for range 4 {
		got = append(got, (<-heard).Environment)
	}
	if split(st) {
		slices.Sort(got)
	}
	same(t, "heard", got, []string{"a", "c", "d", "f"})
	select {
	case n := <-heard:
		t.Errorf("heard %+v as well", n)
	default:
	}
}

func testListenCancel(t *testing.T, st store.Store) {
	var cancelled atomic.Bool
	first := make(chan struct{}, 100)
	cancel := st.Listen(func(store.Note) {
		if cancelled.Load() {
			t.Error("heard after cancel")
		}
		first <- struct{}{}
	})
	second := make(chan struct{}, 100)
	defer st.Listen(func(store.Note) { second <- struct{}{} })()
	say := func(tx store.Tx) error {
		tx.Notify(store.Note{Environment: "env_1"})
		return tx.SetSetting("a", "1")
	}
	update(t, st, say)
	<-first
	<-second
	cancel()
	cancelled.Store(true)
	update(t, st, say)
	<-second
}

func testClosed(t *testing.T, st store.Store) {
	var wg sync.WaitGroup
	var did, refused atomic.Int32
	for i := range 50 {
		wg.Go(func() {
			err := st.Update(context.Background(), set(fmt.Sprint("s", i), "1"))
			switch {
			case err == nil:
				did.Add(1)
			case plane.KindOf(err) == plane.Unavailable:
				refused.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if did.Load()+refused.Load() != 50 {
		t.Errorf("%d done and %d refused of 50", did.Load(), refused.Load())
	}
	wantKind(t, "update", st.Update(t.Context(), set("a", "1")), plane.Unavailable)
	wantKind(t, "view", st.View(t.Context(), func(store.Reader) error { return nil }), plane.Unavailable)
	if err := st.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
}

// Transitions that want the same rows take turns, whether or not they run
// together; those that want them crosswise too.
func testUpdateTurns(t *testing.T, st store.Store) {
	world(t, st, "sesn_1", "sesn_2", "sesn_3")
	step := func(ids ...string) func(store.Tx) error {
		return func(tx store.Tx) error {
			for _, id := range ids {
				s, err := tx.LockSession(id)
				if err != nil {
					return err
				}
				s.Pos++
				if err := tx.UpdateSession(s); err != nil {
					return err
				}
			}
			_, err := tx.Setting("a") // sends the writes on their way
			return err
		}
	}
	for i, err := range group(st,
		step("sesn_1"), step("sesn_1", "sesn_2"), step("sesn_2", "sesn_1"), step("sesn_3"), step("sesn_3"),
		func(tx store.Tx) error { return errors.Join(step("sesn_3")(tx), errOwn) }) {
		if own := i == 5; err != nil && !own || own && !errors.Is(err, errOwn) {
			t.Errorf("transition %d: %v", i, err)
		}
	}
	for id, want := range map[string]int64{"sesn_1": 3, "sesn_2": 2, "sesn_3": 2} {
		same(t, id, see(t, st, func(r store.Reader) (plane.Session, error) { return r.Session(id) }).Pos, want)
	}
}

// What was written to a row that is not there is told, whatever is asked
// afterwards and whoever asks it.
func testUpdateMissing(t *testing.T, st store.Store) {
	world(t, st, "sesn_1")
	missing := func(tx store.Tx) error {
		if err := tx.UpdateEvent(event("sesn_1", "sevt_none", 1)); err != nil {
			return err
		}
		_, err := tx.Setting("a")
		return err
	}
	wantKind(t, "alone", st.Update(t.Context(), missing), plane.NotFound)
	errs := group(st, set("a", "1"), missing, func(tx store.Tx) error { _, err := tx.LockSession("sesn_1"); return err })
	wantKind(t, "in a group", errs[1], plane.NotFound)
	if err := errors.Join(errs[0], errs[2]); err != nil {
		t.Error(err)
	}
}
