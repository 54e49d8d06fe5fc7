package turn_test

import (
	"context"
	"testing"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/store/storetest"
	"github.com/berthdev/berth/internal/turn"
)

func TestASendWithAKeyHappensOnce(t *testing.T) {
	storetest.Each(t, func(t *testing.T, st store.Store) {
		w, s := staged(t, st)
		id := w.create(actor(), "hi")
		send := func(key string, events ...string) (api.EventList, error) {
			return w.r.AcceptSend(ctx(t), id, turn.Send{Key: key, Events: raws(events...)})
		}
		first, err := send("k1", message("more"), message("and more")) // which wait for their place
		must(t, err)
		s.next(t).say("done")
		s.next(t).say("done")
		w.idle(id, api.StopEndTurn)
		n := len(w.list(id))
		again, err := send("k1", message("more"), message("and more"))
		must(t, err)
		if len(again) != 2 || again[0].Head().ID != first[0].Head().ID || again[1].Head().ID != first[1].Head().ID {
			t.Errorf("a repeat gave %v", again)
		}
		if again[0].Head().ProcessedAt == nil {
			t.Error("the repeat does not show that the message has its place by now")
		}
		_, err = send("k1", message("something else"))
		kind(t, err, plane.Invalid, "used for other events")
		if got := len(w.list(id)); got != n {
			t.Errorf("%d events, %d before the repeats", got, n)
		}
		_, err = send("k2", message("more"))
		must(t, err)
		s.next(t).say("done")
		w.idle(id, api.StopEndTurn)

		// What was refused left nothing behind; an ended session still knows.
		_, err = send("k3", confirm("sevt_none", "allow"))
		kind(t, err, plane.Invalid, "")
		_, err = w.r.Archive(ctx(t), id)
		must(t, err)
		_, err = send("k1", message("more"), message("and more"))
		must(t, err)
		_, err = send("k3", message("late"))
		kind(t, err, plane.Conflict, "archived")
	})
}

// A result locks its item before it writes: where another server has that item,
// nothing needs to be undone.
func TestAResultWritesWhenAllIsLocked(t *testing.T) {
	storetest.Each(t, func(t *testing.T, st store.Store) {
		var written, asked int
		w, s := staged(t, st, func(c *turn.Config) { c.Store = ordered{st, &written, &asked} })
		id := w.create(actor(), "hi")
		s.next(t).say("", "bash", "bash")
		calls := open(w.idle(id, api.StopRequiresAction))
		work, err := w.q.Poll(ctx(t), w.env, "", 0, 0)
		must(t, err)
		who := plane.Identity{Kind: plane.CallerSessions, WorkID: work.ID}
		must(t, st.View(ctx(t), func(r store.Reader) error {
			it, err := r.Work(work.ID)
			who.KeyID = it.TokenID
			return err
		}))
		// A delivery is proven by its first result: the second needs no item.
		for i, want := range []int{1, 0} {
			written, asked = 0, 0
			_, err = w.r.AcceptSend(ctx(t), id, turn.Send{Who: who, Key: calls[i], Events: raws(result(calls[i], "ok"))})
			must(t, err)
			if written == 0 || asked != want {
				t.Errorf("result %d: %d writes; items were looked for %d times before them, want %d", i+1, written, asked, want)
			}
		}
	})
}

// ordered counts what was written, and the live items asked for before that.
type ordered struct {
	store.Store
	written, asked *int
}

func (o ordered) Update(ctx context.Context, fn func(store.Tx) error) error {
	return o.Store.Update(ctx, func(tx store.Tx) error { return fn(orderedTx{tx, o}) })
}

type orderedTx struct {
	store.Tx
	ordered
}

func (o orderedTx) LiveWork(session string) (plane.WorkItem, error) {
	if *o.written == 0 {
		*o.asked++
	}
	return o.Tx.LiveWork(session)
}

func (o orderedTx) UpdateCall(c plane.Call) error { *o.written++; return o.Tx.UpdateCall(c) }
func (o orderedTx) InsertSend(s plane.Send) error { *o.written++; return o.Tx.InsertSend(s) }
func (o orderedTx) PruneSends(session string, before time.Time) error {
	*o.written++
	return o.Tx.PruneSends(session, before)
}
func (o orderedTx) InsertEvents(e ...plane.StoredEvent) error {
	*o.written++
	return o.Tx.InsertEvents(e...)
}
