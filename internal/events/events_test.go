package events

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/store/storetest"
)

type world struct {
	*testing.T
	st  store.Store
	log *Log
}

const session = "sesn_1"

// patience is far more than anything here takes.
const patience = time.Minute

func each(t *testing.T, f func(w world)) {
	storetest.Each(t, func(t *testing.T, st store.Store) {
		w := world{t, st, New(st)}
		w.log.Start()
		t.Cleanup(w.log.Stop)
		now := time.Now().UTC()
		w.update(func(tx store.Tx) error {
			if err := tx.InsertEnvironment(storetest.Environment("env_1", "one", now)); err != nil {
				return err
			}
			return errors.Join(tx.InsertSession(storetest.Session(session, "env_1", now)), tx.InsertSession(storetest.Session("sesn_2", "env_1", now)))
		})
		f(w)
	})
}

func (w world) update(fn func(store.Tx) error) {
	w.Helper()
	if err := w.st.Update(w.Context(), fn); err != nil {
		w.Fatal(err)
	}
}

// with runs fn on the locked session and stores it.
func (w world) with(fn func(tx store.Tx, s *plane.Session) error) {
	w.Helper()
	w.update(func(tx store.Tx) error {
		s, err := tx.LockSession(session)
		if err != nil {
			return err
		}
		if err := fn(tx, &s); err != nil {
			return err
		}
		return tx.UpdateSession(s)
	})
}

func (w world) append(texts ...string) {
	w.Helper()
	w.with(func(tx store.Tx, s *plane.Session) error {
		for _, text := range texts {
			if _, err := w.log.Append(tx, s, message(text)); err != nil {
				return err
			}
		}
		return nil
	})
}

func message(text string) *api.AgentMessage {
	return &api.AgentMessage{EventHead: api.EventHead{Type: api.TypeAgentMessage}, Content: []api.Block{{Type: "text", Text: text}}}
}

func user(text string) *api.UserMessage {
	return &api.UserMessage{EventHead: api.EventHead{Type: api.TypeUserMessage}, Content: []api.Block{{Type: "text", Text: text}}}
}

func (w world) subscribe(from From, deltas ...string) *Subscription {
	w.Helper()
	s, err := w.log.Subscribe(w.Context(), session, from, deltas)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(s.Close)
	return s
}

// until reads until n frames are there.
func (w world) until(s *Subscription, n int) []*Frame {
	w.Helper()
	var got []*Frame
	for len(got) < n {
		select {
		case <-s.Ready():
		case <-time.After(patience):
			w.Fatalf("%d of %d frames came: %v", len(got), n, texts(got))
		}
		frames, err := s.Take(w.Context())
		if err != nil {
			w.Fatalf("after %v: %v", texts(got), err)
		}
		got = append(got, frames...)
	}
	return got
}

func texts(frames []*Frame) []string {
	out := []string{}
	for _, f := range frames {
		var e struct {
			Content     []api.Block
			ProcessedAt *time.Time `json:"processed_at"`
			Delta       api.ContentDelta
		}
		json.Unmarshal(f.Body, &e)
		switch {
		case f.Type == api.TypeEventDelta:
			out = append(out, "+"+e.Delta.Content.Text)
		case len(e.Content) == 0:
			out = append(out, f.Type)
		case e.ProcessedAt == nil:
			out = append(out, e.Content[0].Text+"?")
		default:
			out = append(out, e.Content[0].Text)
		}
	}
	return out
}

func (w world) want(got []*Frame, want ...string) {
	w.Helper()
	if g := texts(got); strings.Join(g, ",") != strings.Join(want, ",") {
		w.Errorf("got %v, want %v", g, want)
	}
}

func TestAppendNumbersAndTimes(t *testing.T) {
	each(t, func(w world) {
		at := time.Date(2026, 11, 23, 22, 0, 0, 1500, time.FixedZone("x", 3600))
		w.log.now = func() time.Time { return at }
		var rows []plane.StoredEvent
		w.with(func(tx store.Tx, s *plane.Session) (err error) {
			rows, err = w.log.Append(tx, s, message("a"), message("b"))
			if err == nil && (s.Pos != 2 || s.Emit != 2) {
				t.Errorf("the session stands at pos %d, emit %d", s.Pos, s.Emit)
			}
			return err
		})
		at = at.Add(-time.Hour) // the clock goes back
		mine := plane.NewID(plane.PrefixEvent)
		w.with(func(tx store.Tx, s *plane.Session) error {
			m := message("c")
			m.ID = mine
			more, err := w.log.Append(tx, s, m)
			rows = append(rows[:2:2], more...)
			return err
		})
		if rows[2].ID != mine {
			t.Error("a given id was replaced")
		}
		for i, row := range rows {
			if row.Pos != int64(i+1) || row.Emit != int64(i+1) {
				t.Errorf("row %d has pos %d, emit %d", i, row.Pos, row.Emit)
			}
			if i > 0 && !row.ProcessedAt.After(*rows[i-1].ProcessedAt) {
				t.Errorf("time of row %d does not rise: %v after %v", i, row.ProcessedAt, rows[i-1].ProcessedAt)
			}
			e, err := api.DecodeEvent(row.Body)
			if err != nil || e.Head().ID != row.ID || !e.Head().ProcessedAt.Equal(*row.ProcessedAt) || !strings.Contains(string(row.Body), `Z"`) {
				t.Errorf("body %s: %v", row.Body, err)
			}
		}
		if rows[2].ProcessedAt.Sub(*rows[1].ProcessedAt) != time.Microsecond {
			t.Errorf("a clock that went back moves the log on by %v", rows[2].ProcessedAt.Sub(*rows[1].ProcessedAt))
		}
	})
}

func TestAQueuedEventIsShownTwiceAndListedOnce(t *testing.T) {
	each(t, func(w world) {
		sub := w.subscribe(From{})
		var id string
		w.with(func(tx store.Tx, s *plane.Session) error {
			row, err := w.log.Queue(tx, s, user("q"))
			id = row.ID
			return err
		})
		w.append("a")
		w.with(func(tx store.Tx, s *plane.Session) error {
			row, err := w.log.Process(tx, s, id)
			if err != nil {
				return err
			}
			again, err := w.log.Process(tx, s, id)
			if err == nil && (again.Emit != row.Emit || again.Pos != row.Pos) {
				t.Error("processed twice")
			}
			return err
		})
		frames := w.until(sub, 3)
		w.want(frames, "q?", "a", "q")
		if frames[0].ID != id || frames[2].ID != id {
			t.Error("the two frames differ in id")
		}
		var listed []plane.StoredEvent
		w.st.View(t.Context(), func(r store.Reader) (err error) {
			listed, err = r.Events(session, store.EventQuery{Limit: 10})
			return err
		})
		if len(listed) != 2 || listed[1].ID != id || listed[1].Pos != 2 || listed[1].ProcessedAt == nil {
			t.Errorf("the list: %+v", listed)
		}
		// A resume sees what is true now.
		w.want(w.until(w.subscribe(From{Resume: true}), 2), "a", "q")
	})
}

func TestLiveTailAndResume(t *testing.T) {
	each(t, func(w world) {
		w.append("a", "b")
		live := w.subscribe(From{})
		resumed := w.subscribe(From{Resume: true, After: 1})
		beyond := w.subscribe(From{Resume: true, After: 99})
		before := w.subscribe(From{Resume: true, After: -3})
		w.append("c")
		w.append("d")
		w.want(w.until(live, 2), "c", "d")
		w.want(w.until(resumed, 3), "b", "c", "d")
		w.want(w.until(beyond, 2), "c", "d")
		w.want(w.until(before, 4), "a", "b", "c", "d")
		// A long way back comes in pages.
		var many []string
		for i := range 3*pageFrames + 5 {
			many = append(many, fmt.Sprint(i))
		}
		w.append(many...)
		w.want(w.until(w.subscribe(From{Resume: true, After: 4}), len(many)), many...)
		if _, err := w.log.Subscribe(t.Context(), "sesn_none", From{}, nil); plane.KindOf(err) != plane.NotFound {
			t.Errorf("an unknown session: %v", err)
		}
	})
}

// Whoever was not given a frame by a note reads it from the store: notes of
// other processes carry none, and some may be lost altogether.
func TestRemoteAndLostNotes(t *testing.T) {
	each(t, func(w world) {
		sub := w.subscribe(From{})
		other := New(w.st) // another process appends, its notes come without frames
		w.log.cancel()     // hear what the test says instead
		w.log.cancel = func() {}
		w.with(func(tx store.Tx, s *plane.Session) error {
			_, err := other.Append(tx, s, message("a"), message("b"))
			return err
		})
		w.log.hear(store.Note{Session: session, Emit: 2})
		w.want(w.until(sub, 2), "a", "b")

		// Frame 3 is missed, 4 comes with its note.
		var row []plane.StoredEvent
		w.append("c")
		w.with(func(tx store.Tx, s *plane.Session) (err error) {
			row, err = other.Append(tx, s, message("d"))
			return err
		})
		w.log.hear(store.Note{Session: session, Emit: 4, Frames: row, Local: true})
		w.want(w.until(sub, 2), "c", "d")
		w.log.hear(store.Note{Session: session, Emit: 4, Frames: row, Local: true}) // twice
		w.log.hear(store.Note{Session: session, Emit: 2})                           // late

		w.append("e")
		w.log.hear(store.Note{Lost: true})
		w.want(w.until(sub, 1), "e")
		if frames, err := sub.Take(t.Context()); len(frames) != 0 || err != nil {
			t.Errorf("more came: %v %v", texts(frames), err)
		}

		w.update(func(tx store.Tx) error { return tx.DeleteSession(session) })
		w.log.hear(store.Note{Lost: true})
		w.want(w.until(sub, 1), api.TypeSessionDeleted)
		if _, err := sub.Take(t.Context()); err != io.EOF {
			t.Errorf("after the deletion: %v", err)
		}
	})
}

// amid runs during a read of the store, after its snapshot was taken.
type amid struct {
	store.Store
	once *func()
}

func (a amid) View(ctx context.Context, fn func(store.Reader) error) error {
	defer a.now()
	return a.Store.View(ctx, fn)
}

func (a amid) Session(ctx context.Context, id string) (plane.Session, error) {
	defer a.now()
	return a.Store.Session(ctx, id)
}

func (a amid) now() {
	if f := *a.once; f != nil {
		*a.once = nil
		f()
	}
}

// heard waits until the session's hub has heard of a frame.
func (w world) heard(emit int64) {
	w.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); runtime.Gosched() {
		w.log.mu.Lock()
		h := w.log.hubs[session]
		w.log.mu.Unlock()
		h.mu.Lock()
		done := h.heard >= emit
		h.mu.Unlock()
		if done {
			return
		}
	}
	w.Fatalf("frame %d was never heard of", emit)
}

// A frame whose note is heard while a reader looks into the store, and finds
// the time before it, is not lost.
func TestANoteDuringARead(t *testing.T) {
	each(t, func(w world) {
		w.append("a")
		var meanwhile func()
		w.log.st = amid{w.st, &meanwhile}
		sub := w.subscribe(From{Resume: true})
		meanwhile = func() {
			w.append("b")
			w.heard(2)
		}
		w.want(w.until(sub, 2), "a", "b")

		meanwhile = func() {
			w.append("c")
			w.heard(3)
		}
		w.want(w.until(w.subscribe(From{}), 1), "c") // committed while it began
	})
}

func TestNothingIsShownThatWasUndone(t *testing.T) {
	each(t, func(w world) {
		sub := w.subscribe(From{})
		broken := errors.New("broken")
		err := w.st.Update(t.Context(), func(tx store.Tx) error {
			s, err := tx.LockSession(session)
			if err != nil {
				return err
			}
			if _, err := w.log.Append(tx, &s, message("undone")); err != nil {
				return err
			}
			return broken
		})
		if !errors.Is(err, broken) {
			t.Fatal(err)
		}
		w.append("kept")
		frames := w.until(sub, 1)
		w.want(frames, "kept")
		if frames[0].Emit != 1 {
			t.Errorf("the frame's number is %d", frames[0].Emit)
		}
	})
}

func TestDeletionEndsStreams(t *testing.T) {
	each(t, func(w world) {
		sub := w.subscribe(From{})
		w.append("a")
		w.update(func(tx store.Tx) error {
			tx.Notify(store.Note{Session: session, Deleted: true})
			return tx.DeleteSession(session)
		})
		frames := w.until(sub, 2)
		w.want(frames, "a", api.TypeSessionDeleted)
		e, err := api.DecodeEvent(frames[1].Body)
		if err != nil || e.Head().ID == "" || e.Head().ProcessedAt == nil || frames[1].Emit != 0 {
			t.Errorf("%s %v", frames[1].Body, err)
		}
		if _, err := sub.Take(t.Context()); err != io.EOF {
			t.Errorf("after the last frame: %v", err)
		}
		if len(w.log.hubs) != 1 {
			t.Errorf("%d hubs", len(w.log.hubs))
		}
		sub.Close()
		if len(w.log.hubs) != 0 {
			t.Error("a hub outlives its last subscription")
		}
	})
}

func TestPreviews(t *testing.T) {
	each(t, func(w world) {
		all := w.subscribe(From{}, api.TypeAgentMessage, api.TypeAgentThinking)
		thinking := w.subscribe(From{}, api.TypeAgentThinking)
		none := w.subscribe(From{})
		start := func(id, kind string) {
			w.log.Preview(session, 0, &api.EventStart{Type: api.TypeEventStart, Event: api.EventPreview{ID: id, Type: kind}})
		}
		delta := func(id, text string) {
			w.log.Preview(session, 0, &api.EventDelta{Type: api.TypeEventDelta, EventID: id, Delta: api.ContentDelta{Type: "content_delta", Content: api.Block{Type: "text", Text: text}}})
		}
		start("sevt_t", api.TypeAgentThinking)
		start("sevt_m", api.TypeAgentMessage)
		delta("sevt_m", "he")
		late := w.subscribe(From{}, api.TypeAgentMessage)
		delta("sevt_m", "llo")
		w.with(func(tx store.Tx, s *plane.Session) error {
			m := message("hello")
			m.ID = "sevt_m"
			_, err := w.log.Append(tx, s, m)
			return err
		})
		w.want(w.until(all, 5), api.TypeEventStart, api.TypeEventStart, "+he", "+llo", "hello")
		w.want(w.until(thinking, 2), api.TypeEventStart, "hello")
		w.want(w.until(none, 1), "hello")
		w.want(w.until(late, 1), "hello") // without the beginning there is no delta
		delta("sevt_m", "after the end")
		w.log.Preview("sesn_2", 0, &api.EventStart{Type: api.TypeEventStart})
		w.append("next")
		w.want(w.until(all, 1), "next")
	})
}

// The start of an event stays behind the frames that are before it, though their
// notes are still to come.
func TestPreviewsStayInOrder(t *testing.T) {
	each(t, func(w world) {
		w.log.previewWait = patience // a disk may be slow
		sub := w.subscribe(From{}, api.TypeAgentMessage)
		next := sub.cursor + 1
		shown := make(chan bool)
		go func() {
			w.log.Preview(session, next, &api.EventStart{Type: api.TypeEventStart, Event: api.EventPreview{ID: "sevt_m", Type: api.TypeAgentMessage}})
			close(shown)
		}()
		for waits := false; !waits; {
			select {
			case <-shown:
				t.Fatal("it did not wait")
			default:
			}
			sub.hub.mu.Lock()
			waits = sub.hub.news != nil
			sub.hub.mu.Unlock()
			runtime.Gosched()
		}
		w.append("first")
		w.want(w.until(sub, 2), "first", api.TypeEventStart)
		<-shown
	})
}

// A delta that finds no room is shed with all after it: what a reader has is
// always the beginning of the text.
func TestShedPreviewsLeaveNoHoles(t *testing.T) {
	each(t, func(w world) {
		sub := w.subscribe(From{}, api.TypeAgentMessage)
		w.log.Preview(session, 0, &api.EventStart{Type: api.TypeEventStart, Event: api.EventPreview{ID: "sevt_m", Type: api.TypeAgentMessage}})
		push := func(i int) {
			w.log.Preview(session, 0, &api.EventDelta{Type: api.TypeEventDelta, EventID: "sevt_m", Delta: api.ContentDelta{Content: api.Block{Type: "text", Text: fmt.Sprint(i)}}})
		}
		for i := range bufferFrames + 10 {
			push(i)
		}
		got := w.until(sub, bufferFrames)
		push(999)
		w.append("end")
		got = append(got, w.until(sub, 1)...)
		if len(got) != bufferFrames+1 || texts(got)[bufferFrames] != "end" || texts(got)[bufferFrames-1] != fmt.Sprintf("+%d", bufferFrames-2) {
			t.Errorf("%d frames, the last are %v", len(got), texts(got)[len(got)-3:])
		}
	})
}

func TestASlowReaderCatchesUpOrIsDropped(t *testing.T) {
	each(t, func(w world) {
		var mu sync.Mutex
		now := time.Now()
		w.log.mu.Lock()
		w.log.now = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
		w.log.mu.Unlock()
		sub, quick := w.subscribe(From{}), w.subscribe(From{})
		var want []string
		for i := range 2 * bufferFrames {
			want = append(want, fmt.Sprint(i))
		}
		w.append(want...)
		w.want(w.until(quick, len(want)), want...)
		sub.hub.mu.Lock()
		if n := len(sub.buffer); n > bufferFrames {
			t.Errorf("%d frames are buffered", n)
		}
		sub.hub.mu.Unlock()
		w.want(w.until(sub, len(want)), want...)

		w.heard(int64(len(want)))
		if frames, err := sub.Take(t.Context()); len(frames) != 0 || err != nil {
			t.Fatalf("more: %v %v", texts(frames), err)
		}

		// Again, and this time it never comes back.
		w.append(want...)
		w.until(quick, len(want))
		w.heard(int64(2 * len(want)))
		mu.Lock()
		now = now.Add(slowAfter)
		mu.Unlock()
		w.append("late")
		w.heard(int64(2*len(want) + 1))
		<-sub.Ready()
		if frames, err := sub.Take(t.Context()); err != ErrSlow || len(frames) != 0 {
			t.Errorf("the slow reader got %d frames and %v", len(frames), err)
		}
	})
}

func TestBytesAreBounded(t *testing.T) {
	each(t, func(w world) {
		sub := w.subscribe(From{})
		big := strings.Repeat("x", bufferBytes/2-1000)
		w.append(big, big, big, big)
		w.append("marker")
		other := w.subscribe(From{Resume: true, After: 4})
		w.until(other, 1)
		sub.hub.mu.Lock()
		if sub.bytes > bufferBytes {
			t.Errorf("%d bytes are buffered", sub.bytes)
		}
		sub.hub.mu.Unlock()
		if got := w.until(sub, 5); len(got) != 5 || texts(got)[4] != "marker" {
			t.Errorf("%d frames", len(got))
		}
	})
}

func TestStopAndClose(t *testing.T) {
	storetest.Each(t, func(t *testing.T, st store.Store) {
		now := time.Now().UTC()
		if err := st.Update(t.Context(), func(tx store.Tx) error {
			return errors.Join(tx.InsertEnvironment(storetest.Environment("env_1", "one", now)), tx.InsertSession(storetest.Session(session, "env_1", now)))
		}); err != nil {
			t.Fatal(err)
		}
		before := goleak.IgnoreCurrent()
		w := world{t, st, New(st)}
		if _, err := w.log.Subscribe(t.Context(), session, From{}, nil); plane.KindOf(err) != plane.Unavailable {
			t.Errorf("before Start: %v", err)
		}
		w.log.Start()
		w.log.Start()
		closed, stopped := w.subscribe(From{}), w.subscribe(From{})
		closed.Close()
		closed.Close()
		if _, err := closed.Take(t.Context()); err != ErrClosed {
			t.Errorf("closed: %v", err)
		}
		w.log.Stop()
		w.log.Stop()
		<-stopped.Ready()
		if _, err := stopped.Take(t.Context()); err != ErrStopped {
			t.Errorf("stopped: %v", err)
		}
		if err := goleak.Find(before); err != nil {
			t.Error(err)
		}
	})
}

// Many writers, many readers that come and go: each sees every frame once and
// in order, from where it began.
func TestConcurrentStreams(t *testing.T) {
	each(t, func(w world) {
		const writers, each, readers = 4, 40, 12
		total := int64(writers * each)
		var wg, begun, written sync.WaitGroup
		begun.Add(readers)
		for i := range readers {
			wg.Go(func() {
				from, last := From{}, int64(-1)
				if i%2 == 0 {
					from, last = From{Resume: true}, 0
				}
				sub, err := w.log.Subscribe(t.Context(), session, from, nil)
				begun.Done()
				if err != nil {
					t.Error(err)
					return
				}
				defer sub.Close()
				for last < total {
					frames, err := sub.Take(t.Context())
					if err != nil {
						t.Error(err)
						return
					}
					for _, f := range frames {
						if last >= 0 && f.Emit != last+1 {
							t.Errorf("frame %d after %d", f.Emit, last)
							return
						}
						last = f.Emit
					}
					if len(frames) == 0 {
						select {
						case <-sub.Ready():
						case <-time.After(patience):
							t.Errorf("nothing after frame %d", last)
							return
						}
					}
				}
			})
		}
		for range writers {
			written.Go(func() {
				for range each {
					w.append("x")
				}
			})
		}
		// A live tail may begin after the last frame: one more wakes it.
		written.Wait()
		begun.Wait()
		w.append("end")
		wg.Wait()
	})
}
