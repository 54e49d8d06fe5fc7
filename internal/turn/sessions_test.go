package turn_test

import (
	"strings"
	"testing"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/events"
	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/store/storetest"
)

// kind checks that err is of a kind and says words.
func kind(t testing.TB, err error, k plane.Kind, words string) {
	t.Helper()
	if err == nil || plane.KindOf(err) != k || !strings.Contains(err.Error(), words) {
		t.Fatalf("got %v, want kind %d with %q", err, k, words)
	}
}

func (w *world) work(session string) (item plane.WorkItem) {
	w.t.Helper()
	must(w.t, w.st.View(ctx(w.t), func(rd store.Reader) (err error) { item, err = rd.LastWork(session); return err }))
	return item
}

func TestUpdate(t *testing.T) {
	storetest.Each(t, func(t *testing.T, st store.Store) {
		w, s := staged(t, st)
		id := w.create(actor(), "")
		v := "1"
		changed, err := w.r.Update(ctx(t), id, api.UpdateSession{
			Title:    api.Some("new"),
			Metadata: api.Some(api.MetadataPatch{"a": &v}),
			Agent:    api.Some(api.UpdateSessionAgent{Tools: api.Some([]api.Tool{custom("weather")})}),
		})
		must(t, err)
		if *changed.Title != "new" || changed.Metadata["a"] != "1" || changed.Agent.Tools[0].Name != "weather" {
			t.Fatalf("%+v", changed.Session)
		}
		l := w.list(id)
		equal(t, types(l), []string{"session.updated"})
		u := l[0].(*api.SessionUpdated)
		if *u.Title != "new" || u.Metadata["a"] != "1" || u.Agent == nil || u.Agent.Tools[0].Name != "weather" {
			t.Fatalf("%+v", u)
		}
		// The same again says nothing.
		_, err = w.r.Update(ctx(t), id, api.UpdateSession{Title: api.Some("new"), Metadata: api.Some(api.MetadataPatch{"a": &v, "b": nil})})
		must(t, err)
		if n := len(w.list(id)); n != 1 {
			t.Errorf("%d events", n)
		}
		// Only what changed is in the event.
		_, err = w.r.Update(ctx(t), id, api.UpdateSession{Title: api.Null[string]()})
		must(t, err)
		if got := w.session(id); got.Title != nil {
			t.Error(*got.Title)
		}
		w.send(id, message("hi"))
		sc := s.next(t)
		if sc.Tools[0].Name != "weather" || len(sc.Tools) != 1 {
			t.Errorf("%+v", sc.Tools)
		}
		_, err = w.r.Update(ctx(t), id, api.UpdateSession{Agent: api.Some(api.UpdateSessionAgent{Tools: api.Some([]api.Tool{})})})
		kind(t, err, plane.Invalid, "agent.tools")
		_, err = w.r.Update(ctx(t), id, api.UpdateSession{Title: api.Some("while it runs")})
		must(t, err)
		sc.say("done")
		w.idle(id, api.StopEndTurn)

		long := strings.Repeat("x", 600)
		_, err = w.r.Update(ctx(t), id, api.UpdateSession{Metadata: api.Some(api.MetadataPatch{"a": &long})})
		kind(t, err, plane.Invalid, "metadata.a")
		_, err = w.r.Update(ctx(t), id, api.UpdateSession{VaultIDs: api.Some([]string{})})
		kind(t, err, plane.Invalid, "vault_ids")
		_, err = w.r.Update(ctx(t), "sesn_01nope", api.UpdateSession{Title: api.Some("x")})
		kind(t, err, plane.NotFound, "")
	})
}

func TestArchiveAndDelete(t *testing.T) {
	storetest.Each(t, func(t *testing.T, st store.Store) {
		w, s := staged(t, st)
		id := w.create(actor(), "hi")
		sc := s.next(t)
		_, err := w.r.Archive(ctx(t), id)
		kind(t, err, plane.Invalid, "user.interrupt")
		kind(t, w.r.Delete(ctx(t), id), plane.Invalid, "user.interrupt")
		sc.say("", "bash")
		call := open(w.idle(id, api.StopRequiresAction))[0]

		got, err := w.r.Archive(ctx(t), id)
		must(t, err)
		if got.ArchivedAt == nil || got.Turn != plane.TurnRest {
			t.Fatalf("%+v", got)
		}
		l := types(w.list(id))
		equal(t, l[len(l)-2:], []string{"session.thread_status_terminated", "session.status_terminated"})
		w.refused(id, plane.Conflict, "archived", result(call, "late"))
		if item := w.work(id); item.State != api.WorkStopping && item.State != api.WorkStopped {
			t.Errorf("the work item is %s", item.State)
		}
		again, err := w.r.Archive(ctx(t), id)
		must(t, err)
		if !again.ArchivedAt.Equal(*got.ArchivedAt) {
			t.Error("archived twice at different times")
		}
		_, err = w.r.Update(ctx(t), id, api.UpdateSession{Title: api.Some("x")})
		kind(t, err, plane.Invalid, "ended")

		sub, err := w.log.Subscribe(ctx(t), id, events.From{}, nil)
		must(t, err)
		defer sub.Close()
		next := func(want string) {
			t.Helper()
			<-sub.Ready()
			frames, err := sub.Take(ctx(t))
			if err != nil || len(frames) != 1 || frames[0].Type != want {
				t.Fatalf("the stream gives %v, %v, want %s", frames, err, want)
			}
		}
		next(api.TypeSessionStatusTerminated)
		must(t, w.r.Delete(ctx(t), id))
		kind(t, w.r.Delete(ctx(t), id), plane.NotFound, "")
		next(api.TypeSessionDeleted)
	})
}

func TestTerminate(t *testing.T) {
	w, s := staged(t, storetest.SQLite(t))
	id := w.create(actor(), "hi")
	sc := s.next(t)
	got, err := w.r.Terminate(ctx(t), id)
	must(t, err)
	<-sc.ctx.Done()
	if got.Status != api.SessionTerminated {
		t.Fatal(got.Status)
	}
	l := w.list(id)
	equal(t, tail(l, 3), []string{"span.model_request_start", "span.model_request_end", "session.thread_status_terminated", "session.status_terminated"})
	_, err = w.r.Terminate(ctx(t), id)
	must(t, err)
	if n := len(w.list(id)); n != len(l) {
		t.Error("terminated twice")
	}
	_, err = w.r.Archive(ctx(t), id)
	must(t, err)
	must(t, w.r.Delete(ctx(t), id))
}

func TestGiveUp(t *testing.T) {
	storetest.Each(t, func(t *testing.T, st store.Store) {
		w, s := staged(t, st)
		id := w.create(actor(), "hi")
		s.next(t).say("", "bash", "read")
		calls := open(w.idle(id, api.StopRequiresAction))
		w.send(id, result(calls[0], "fine"), message("and?"))
		n := len(w.list(id)) - 1 // the message will move
		must(t, st.Update(ctx(t), func(tx store.Tx) error {
			row, err := tx.LockSession(id)
			if err != nil {
				return err
			}
			if err := w.r.GiveUp(tx, &row, "no worker came"); err != nil {
				return err
			}
			return tx.UpdateSession(row)
		}))
		l := w.idle(id, api.StopRetriesExhausted)
		equal(t, tail(l, n), []string{"agent.tool_result", "session.error", "user.message", "session.thread_status_idle", "session.usage", "session.status_idle"})
		if r := l[n].(*api.AgentToolResult); r.ToolUseID != calls[1] || !strings.Contains(r.Content[0].Text, "no worker came") {
			t.Errorf("%+v", r)
		}
		if e := l[n+1].(*api.SessionError); e.Error.Type != api.SessionErrUnknown || e.Error.RetryStatus.Type != api.RetryExhausted || e.Error.Message != "no worker came" {
			t.Errorf("%+v", e)
		}
		w.refused(id, plane.Invalid, "given up", result(calls[1], "late"))
		w.send(id, message("again"))
		sc := s.next(t)
		results := sc.Messages[2].Results
		if results[0].IsError || !results[1].IsError || !strings.Contains(results[1].Content[0].Text, "no worker came") {
			t.Errorf("%+v", results)
		}
		sc.say("ok")
		w.idle(id, api.StopEndTurn)
		inOrder(t, w.rows(id))
	})
}

// The queue hears of a session whenever a worker may be needed.
func TestTheSessionHasAWorkItemWhenItNeedsOne(t *testing.T) {
	w, s := staged(t, storetest.SQLite(t))
	id := w.create(actor(), "")
	if item := w.work(id); item.State != api.WorkQueued || item.HasInput {
		t.Fatalf("%+v", item)
	}
	w.send(id, message("hi"))
	if item := w.work(id); !item.HasInput {
		t.Error("the item does not know of the input")
	}
	s.next(t).say("", "bash")
	w.idle(id, api.StopRequiresAction)
	stop := func() {
		must(t, w.st.Update(ctx(t), func(tx store.Tx) error {
			item, err := tx.LiveWork(id)
			if err != nil {
				return err
			}
			if item, err = tx.LockWork(item.ID); err != nil {
				return err
			}
			item.State, item.EndedBy = api.WorkStopped, plane.EndedOperator
			now := item.CreatedAt
			item.StoppedAt = &now
			return tx.UpdateWork(item)
		}))
	}
	for _, event := range []string{message("still there?"), interrupt} {
		stop()
		w.send(id, event)
		if item := w.work(id); item.State != api.WorkQueued {
			t.Errorf("after %s the item is %s", event, item.State)
		}
	}
}
