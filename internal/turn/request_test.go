package turn_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/events"
	"github.com/berthdev/berth/internal/model"
	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/store/storetest"
	"github.com/berthdev/berth/internal/turn"
)

// stage is a model whose answers the test gives: each request appears on
// asked and is answered by what the test does with it.
type stage struct{ asked chan *scene }

type scene struct {
	model.Request
	ctx  context.Context
	sink model.Sink
	end  chan func() (model.Response, error)
}

func newStage() *stage { return &stage{asked: make(chan *scene, 100)} }

func (s *stage) Stream(ctx context.Context, r model.Request, to model.Sink) (model.Response, error) {
	sc := &scene{Request: r, ctx: ctx, sink: to, end: make(chan func() (model.Response, error), 1)}
	s.asked <- sc
	select {
	case end := <-sc.end:
		return end()
	case <-ctx.Done():
		return model.Response{}, ctx.Err()
	}
}

// next waits for the next request.
func (s *stage) next(t testing.TB) *scene {
	t.Helper()
	select {
	case sc := <-s.asked:
		return sc
	case <-time.After(patience):
		t.Fatal("no model request in time")
		return nil
	}
}

// none checks that no request is under way.
func (s *stage) none(t testing.TB) {
	t.Helper()
	select {
	case <-s.asked:
		t.Fatal("a model request that should not be")
	default:
	}
}

func (sc *scene) say(text string, tools ...string) {
	sc.end <- func() (model.Response, error) {
		resp := model.Response{Provider: model.ProviderBlocks, Stop: model.StopEnd, Usage: model.Usage{Input: 1, Output: 2}}
		if text != "" {
			resp.Blocks = append(resp.Blocks, model.Block{Kind: model.Text, Text: text})
		}
		for _, name := range tools {
			resp.Blocks = append(resp.Blocks, model.Block{Kind: model.ToolUse, Name: name, Input: []byte(`{}`)})
			resp.Stop = model.StopTools
		}
		return resp, nil
	}
}

func (sc *scene) fail(err error) {
	sc.end <- func() (model.Response, error) { return model.Response{}, err }
}

// staged is a world whose agents' model is a stage.
func staged(t testing.TB, st store.Store, adjust ...func(*turn.Config)) (*world, *stage) {
	s := newStage()
	w := newWorld(t, st, append([]func(*turn.Config){func(c *turn.Config) {
		c.Models.Add(api.Model{ID: "stage"}, s)
	}}, adjust...)...)
	return w, s
}

func actor(tools ...api.Tool) api.SessionAgent {
	a := agent(tools...)
	a.Model.ID = "stage"
	return a
}

var overloaded = &model.Error{Kind: model.Overloaded, Message: "busy"}

func TestTheRequestHoldsTheSessionAsTheModelShouldSeeIt(t *testing.T) {
	w, s := staged(t, storetest.SQLite(t))
	a := actor(toolset("always_allow", "grep"), custom("weather"))
	prompt := "You are terse."
	a.System = &prompt
	id := w.create(a, "hi")
	sc := s.next(t)
	if !strings.HasPrefix(sc.System, prompt+"\n\n") || !strings.Contains(sc.System, "/mnt/session/outputs") || !strings.Contains(sc.System, "/workspace") || !strings.Contains(sc.System, "skills/") {
		t.Errorf("system %q", sc.System)
	}
	var names []string
	for _, tool := range sc.Tools {
		names = append(names, tool.Name)
	}
	equal(t, names, []string{"bash", "read", "write", "edit", "glob", "weather"})
	if sc.SessionID != id || sc.Model.ID != "stage" || sc.Attempt != 0 {
		t.Errorf("%+v", sc.Request)
	}
	sc.say("let me see", "bash", "weather", "grep")
	calls := open(w.idle(id, api.StopRequiresAction))
	long := strings.Repeat("ä", 120_000)
	w.send(id, result(calls[0], long), `{"type":"user.custom_tool_result","custom_tool_use_id":`+quote(calls[1])+`,"content":[],"is_error":true}`)
	sc = s.next(t)
	w.send(id, message("and?")) // while the request runs: for the next one
	if len(sc.Messages) != 3 || sc.Messages[1].Role != model.Assistant || len(sc.Messages[1].CallIDs) != 3 {
		t.Fatalf("%d messages", len(sc.Messages))
	}
	got := sc.Messages[2].Results
	cut := got[0].Content[0].Text
	if n := len([]rune(cut)); n > turn.MaxResultChars+200 || !strings.HasPrefix(cut, "ää") || !strings.HasSuffix(cut, "ää") || !strings.Contains(cut, "120000 characters") {
		t.Errorf("a long result is shown with %d characters", n)
	}
	if !got[1].IsError || got[1].Content[0].Text != "(no output)" {
		t.Errorf("%+v", got[1])
	}
	if !got[2].IsError || !strings.Contains(got[2].Content[0].Text, "not enabled") {
		t.Errorf("%+v", got[2])
	}
	// The log keeps all of it.
	l := w.list(id)
	if kept := l[slices.Index(types(l), "user.tool_result")].(*api.UserToolResult).Content[0].Text; kept != long {
		t.Errorf("the log keeps %d bytes", len(kept))
	}
	sc.say("yes")
	sc = s.next(t)
	if last := sc.Messages[len(sc.Messages)-1]; last.Content[0].Text != "and?" {
		t.Errorf("%+v", last)
	}
	warm := sc.Messages
	// A fresh process builds the same history from the log.
	w.stop()
	w.start()
	sc = s.next(t)
	if d := cmp.Diff(warm, sc.Messages); d != "" {
		t.Errorf("rebuilt history differs:\n%s", d)
	}
	sc.say("done")
	l = w.idle(id, api.StopEndTurn)
	if n := len(slices.DeleteFunc(types(l), func(s string) bool { return s != "session.status_idle" })); n != 2 {
		t.Errorf("%d idles; a queued message goes on without one", n)
	}
}

func TestTheEnvironmentNoteCanBeSwitchedOff(t *testing.T) {
	w, s := staged(t, storetest.SQLite(t), func(c *turn.Config) { c.NoEnvironmentNote = true })
	w.create(actor(), "hi")
	if sc := s.next(t); sc.System != "" {
		t.Errorf("system %q", sc.System)
	}
}

func TestPreviewsCarryTheIDsOfTheFinishedEvents(t *testing.T) {
	w, s := staged(t, storetest.SQLite(t))
	id := w.create(actor(), "")
	sub, err := w.log.Subscribe(ctx(t), id, events.From{}, []string{api.TypeAgentMessage, api.TypeAgentThinking})
	must(t, err)
	defer sub.Close()
	w.send(id, message("hi"))
	sc := s.next(t)
	sc.sink.Start(0, model.Thinking)
	sc.sink.Start(1, model.Text)
	sc.sink.Delta(1, "Hel")
	sc.sink.Delta(1, "lo")
	sc.sink.Start(2, model.Text)
	sc.sink.Delta(2, "more")
	sc.end <- func() (model.Response, error) {
		return model.Response{Stop: model.StopEnd, Blocks: []model.Block{{Kind: model.Thinking}, {Kind: model.Text, Text: "Hello"}, {Kind: model.Text, Text: "more"}}}, nil
	}
	l := w.idle(id, api.StopEndTurn)
	var think, msg string
	for _, e := range l {
		switch e := e.(type) {
		case *api.AgentThinking:
			think = e.ID
		case *api.AgentMessage:
			msg = e.ID
			if len(e.Content) != 2 {
				t.Errorf("%+v", e.Content)
			}
		}
	}
	var seen []string
	for !slices.Contains(seen, api.TypeSessionStatusIdle) {
		<-sub.Ready()
		frames, err := sub.Take(ctx(t))
		must(t, err)
		for _, frame := range frames {
			e, err := api.DecodeEvent(frame.Body)
			must(t, err)
			switch e := e.(type) {
			case *api.EventStart:
				seen = append(seen, "start "+e.Event.Type+" "+e.Event.ID)
			case *api.EventDelta:
				seen = append(seen, fmt.Sprintf("delta %s %d %s", e.EventID, e.Delta.Index, e.Delta.Content.Text))
			case *api.SessionStatusIdle, *api.AgentMessage:
				seen = append(seen, frame.Type)
			}
		}
	}
	equal(t, seen, []string{"start agent.thinking " + think, "start agent.message " + msg, "delta " + msg + " 0 Hel", "delta " + msg + " 0 lo", "delta " + msg + " 1 more", "agent.message", "session.status_idle"})
}

func TestInterruptAmidARequest(t *testing.T) {
	storetest.Each(t, func(t *testing.T, st store.Store) {
		w, s := staged(t, st)
		id := w.create(actor(), "hi")
		sc := s.next(t)
		sc.sink.Start(0, model.Text)
		sc.sink.Delta(0, "half a")
		w.send(id, message("queued before"))
		w.send(id, interrupt, message("instead"))
		select {
		case <-sc.ctx.Done():
		case <-time.After(patience):
			t.Fatal("the request was not cancelled")
		}
		s.next(t).say("second")
		l := w.idle(id, api.StopEndTurn)
		got := types(l)
		equal(t, got[3:], []string{"span.model_request_start", "user.interrupt", "span.model_request_end",
			"session.thread_status_idle", "session.usage", "session.status_idle",
			"user.message", "user.message", "session.status_running", "session.thread_status_running",
			"span.model_request_start", "agent.message", "span.model_request_end", "session.thread_status_idle", "session.usage", "session.status_idle"})
		if end := l[5].(*api.SpanModelRequestEnd); !end.IsError || end.ModelRequestStartID != l[3].Head().ID {
			t.Errorf("%+v", end)
		}
		equal(t, texts(l), []string{"second"})
		inOrder(t, w.rows(id))
		var said []string // in the order it was sent
		for _, e := range l {
			if m, ok := e.(*api.UserMessage); ok {
				said = append(said, m.Content[0].Text)
			}
		}
		equal(t, said, []string{"hi", "queued before", "instead"})
	})
}

// A model that answers just when the interrupt comes cannot write any more.
func TestALateAnswerIsRefusedByItsFence(t *testing.T) {
	w, s := staged(t, storetest.SQLite(t))
	id := w.create(actor(), "hi")
	sc := s.next(t)
	// Another replica's interrupt: this process is not told to cancel.
	other := turn.New(w.cfg)
	if _, err := other.Accept(ctx(t), id, raws(interrupt)); err != nil {
		t.Fatal(err)
	}
	n := len(w.list(id))
	sc.say("too late", "bash")
	w.send(id, message("again"))
	s.next(t).say("in time")
	l := w.until(id, "the second answer", func(l []api.Event, s plane.Session) bool { return len(texts(l)) > 0 && s.Status == api.SessionIdle })
	equal(t, texts(l), []string{"in time"})
	if got := tail(l, n); slices.Contains(got, "agent.tool_use") {
		t.Error(got)
	}
}

func TestRetries(t *testing.T) {
	storetest.Each(t, func(t *testing.T, st store.Store) {
		w, s := staged(t, st)
		id := w.create(actor(), "hi")
		s.next(t).fail(overloaded)
		sc := s.next(t)
		if sc.Attempt != 1 {
			t.Errorf("attempt %d", sc.Attempt)
		}
		sc.sink.Start(0, model.Text)
		sc.sink.Delta(0, "half")
		sc.fail(&model.Error{Kind: model.RateLimited, Message: "slow", Amid: true, Usage: model.Usage{Input: 9}})
		s.next(t).say("at last")
		l := w.idle(id, api.StopEndTurn)
		again := []string{"span.model_request_start", "span.model_request_end", "session.error", "session.status_rescheduled", "session.thread_status_rescheduled", "session.status_running", "session.thread_status_running"}
		equal(t, types(l)[3:], slices.Concat(again, again, []string{"span.model_request_start", "agent.message", "span.model_request_end", "session.thread_status_idle", "session.usage", "session.status_idle"}))
		e := l[12].(*api.SessionError)
		if e.Error.Type != api.SessionErrRateLimited || e.Error.RetryStatus.Type != api.RetryRetrying || e.Error.Message != "slow" {
			t.Errorf("%+v", e)
		}
		if end := l[11].(*api.SpanModelRequestEnd); !end.IsError || end.ModelUsage.InputTokens != 9 {
			t.Errorf("%+v", end)
		}
		if got := w.session(id).Usage.InputTokens; got != 10 {
			t.Errorf("usage %d", got)
		}
		equal(t, texts(l), []string{"at last"})
		// The next request starts with fresh tries.
		w.send(id, message("more"))
		if sc := s.next(t); sc.Attempt != 0 {
			t.Errorf("attempt %d after an answer", sc.Attempt)
		}
	})
}

func TestRetriesAreExhausted(t *testing.T) {
	w, s := staged(t, storetest.SQLite(t))
	id := w.create(actor(), "hi")
	for range 4 {
		s.next(t).fail(overloaded)
	}
	sc := s.next(t)
	w.send(id, message("queued"))
	sc.fail(overloaded)
	l := w.idle(id, api.StopRetriesExhausted)
	s.none(t)
	got := types(l)
	equal(t, got[len(got)-6:], []string{"span.model_request_end", "session.error", "user.message", "session.thread_status_idle", "session.usage", "session.status_idle"})
	if e := l[len(l)-5].(*api.SessionError); e.Error.RetryStatus.Type != api.RetryExhausted {
		t.Errorf("%+v", e)
	}
	w.send(id, message("again"))
	sc = s.next(t)
	if sc.Attempt != 0 || len(sc.Messages) != 3 {
		t.Errorf("attempt %d, %d messages", sc.Attempt, len(sc.Messages))
	}
	sc.say("fine")
	w.idle(id, api.StopEndTurn)
}

// Calls and the answer that asked for them are where their events are.
func TestAnswersKnowTheirPlaces(t *testing.T) {
	storetest.Each(t, func(t *testing.T, st store.Store) {
		w, s := staged(t, st)
		id := w.create(actor(), "hi")
		s.next(t).say("I look.", "teleport", "bash", "bash")
		w.idle(id, api.StopRequiresAction)
		places, first := map[string]int64{}, int64(0)
		for _, row := range w.rows(id) {
			places[row.ID] = row.Pos
			if row.Type == api.TypeAgentMessage {
				first = row.Pos
			}
		}
		must(t, st.View(ctx(t), func(r store.Reader) error {
			calls, err := r.Calls(id)
			if len(calls) != 3 {
				t.Errorf("%d calls", len(calls))
			}
			for _, c := range calls {
				if c.Pos != places[c.ID] {
					t.Errorf("the call of %s is at %d, and its event at %d", c.Name, c.Pos, places[c.ID])
				}
			}
			replays, e := r.Replays(id, 0)
			if len(replays) != 1 || replays[0].Pos != first {
				t.Errorf("the answer that begins at %d is kept as %+v", first, replays)
			}
			return errors.Join(err, e)
		}))
	})
}

// A model that asks for nothing but what it may not have costs a bounded
// number of requests; whoever says something gives it as many again.
func TestRefusedToolsDoNotKeepATurnForEver(t *testing.T) {
	storetest.Each(t, func(t *testing.T, st store.Store) {
		w, s := staged(t, st)
		id := w.create(actor(), "hi")
		for range 24 {
			s.next(t).say("", "teleport")
		}
		sc := s.next(t)
		w.send(id, message("still there?")) // waits, and is heard at the next request
		sc.say("", "teleport")
		for range 25 {
			s.next(t).say("", "teleport")
		}
		l := w.idle(id, api.StopRetriesExhausted)
		s.none(t)
		var fault *api.SessionError
		for _, e := range l {
			if e, ok := e.(*api.SessionError); ok {
				fault = e
			}
		}
		if fault == nil || !strings.Contains(fault.Error.Message, "25 times in a row") || fault.Error.RetryStatus.Type != api.RetryExhausted {
			t.Errorf("the error is %+v", fault)
		}
		w.send(id, message("again"))
		s.next(t).say("fine")
		w.idle(id, api.StopEndTurn)
	})
}

func TestWhatIsNotRetried(t *testing.T) {
	w, s := staged(t, storetest.SQLite(t))
	for kind, want := range map[model.ErrorKind]string{model.RequestFailed: api.SessionErrRequestFailed, model.Billing: api.SessionErrBilling, model.Credential: api.SessionErrRequestFailed} {
		id := w.create(actor(), "hi")
		s.next(t).fail(&model.Error{Kind: kind, Message: "no"})
		l := w.idle(id, api.StopRetriesExhausted)
		if e := l[5].(*api.SessionError); e.Error.Type != want || e.Error.RetryStatus.Type != api.RetryExhausted {
			t.Errorf("%s: %+v", kind, e)
		}
	}
	s.none(t)
	a := agent()
	a.Model.ID = "unheard-of"
	l := w.idle(w.create(a, "hi"), api.StopRetriesExhausted)
	if e := l[5].(*api.SessionError); !strings.Contains(e.Error.Message, "unheard-of") {
		t.Errorf("%+v", e)
	}
}

func TestRetryAfterIsObeyedAndAnInterruptEndsThePause(t *testing.T) {
	w, s := staged(t, storetest.SQLite(t))
	id := w.create(actor(), "hi")
	s.next(t).fail(&model.Error{Kind: model.Overloaded, Message: "busy", RetryAfter: time.Minute})
	w.until(id, "rescheduling", func(_ []api.Event, s plane.Session) bool { return s.Status == api.SessionRescheduling })
	w.send(id, message("while it waits"))
	s.none(t)
	w.send(id, interrupt)
	s.next(t).say("at once") // the queued message begins the next turn
	l := w.idle(id, api.StopEndTurn)
	equal(t, types(l)[8:14], []string{"user.interrupt", "session.thread_status_idle", "session.usage", "session.status_idle", "session.status_running", "session.thread_status_running"})
}

// asleep is a model that answers from the second request on.
type asleep struct{ awake bool }

func (a *asleep) Stream(ctx context.Context, _ model.Request, _ model.Sink) (model.Response, error) {
	if !a.awake {
		a.awake = true
		<-ctx.Done()
		return model.Response{}, ctx.Err()
	}
	return model.Response{Stop: model.StopEnd, Blocks: []model.Block{{Kind: model.Text, Text: "awake"}}}, nil
}

func TestASilentProviderIsCutOff(t *testing.T) {
	w := newWorld(t, storetest.SQLite(t), func(c *turn.Config) {
		c.Silence = 200 * time.Millisecond
		c.Models.Add(api.Model{ID: "stage"}, &asleep{})
	})
	l := w.idle(w.create(actor(), "hi"), api.StopEndTurn)
	if e := l[5].(*api.SessionError); !strings.Contains(e.Error.Message, "sent nothing") {
		t.Errorf("%+v", e)
	}
}

func TestRefusal(t *testing.T) {
	w, s := staged(t, storetest.SQLite(t))
	id := w.create(actor(), "hi")
	why := "cyber"
	s.next(t).end <- func() (model.Response, error) {
		return model.Response{Stop: model.StopRefusal, Refusal: &api.StopDetails{Type: "refusal", Category: &why}, Raw: []byte(`[1]`),
			Blocks: []model.Block{{Kind: model.Text, Text: "I cannot"}, {Kind: model.ToolUse, Name: "bash"}}}, nil
	}
	l := w.idle(id, api.StopRefusal)
	last := l[len(l)-1].(*api.SessionStatusIdle)
	if last.StopDetails == nil || *last.StopDetails.Category != "cyber" || slices.Contains(types(l), "agent.tool_use") {
		t.Errorf("%+v in %v", last, types(l))
	}
	w.send(id, message("please"))
	if sc := s.next(t); string(sc.Messages[1].Raw) != "[]" {
		t.Errorf("a refused answer is sent back: %s", sc.Messages[1].Raw)
	}
}

func TestStopGivesTheTurnBackAndTheNextStartGoesOn(t *testing.T) {
	storetest.Each(t, func(t *testing.T, st store.Store) {
		w, s := staged(t, st)
		id := w.create(actor(), "hi")
		s.next(t)
		w.stop()
		if got := w.session(id); got.TurnOwner != "" || got.Turn != plane.TurnWanted || got.Status != api.SessionRunning {
			t.Fatalf("owner %q, turn %s, %s", got.TurnOwner, got.Turn, got.Status)
		}
		n := len(w.list(id))
		w.start()
		s.next(t).say("resumed")
		l := w.idle(id, api.StopEndTurn)
		equal(t, tail(l, n-1), []string{"span.model_request_end", "span.model_request_start", "agent.message", "span.model_request_end", "session.thread_status_idle", "session.usage", "session.status_idle"})
	})
}

// limit is a context that says when somebody waits for its end.
type limit struct {
	context.Context
	asked chan struct{}
	once  sync.Once
}

func (l *limit) Done() <-chan struct{} {
	l.once.Do(func() { close(l.asked) })
	return l.Context.Done()
}

// Stop waits for what runs when it may, and takes nothing new.
func TestStopLetsARunningRequestEnd(t *testing.T) {
	w, s := staged(t, storetest.SQLite(t))
	id := w.create(actor(), "hi")
	sc := s.next(t)
	limit := &limit{Context: context.Background(), asked: make(chan struct{})}
	var stopped sync.WaitGroup
	stopped.Go(func() { must(t, w.r.Stop(limit)) })
	<-limit.asked               // it takes nothing new any more, and waits
	sc.say("calls", "teleport") // which would go on at once
	stopped.Wait()
	s.none(t)
	if got := w.session(id); got.Turn != plane.TurnWanted || got.TurnOwner != "" {
		t.Errorf("turn %s of %q", got.Turn, got.TurnOwner)
	}
	w.start()
	s.next(t).say("done")
	w.idle(id, api.StopEndTurn)
}

func TestACrashAmidARequestLosesAndDoublesNothing(t *testing.T) {
	storetest.Each(t, func(t *testing.T, st store.Store) {
		w, s := staged(t, st, func(c *turn.Config) { c.Sweep = 50 * time.Millisecond })
		id := w.create(actor(), "hi")
		s.next(t).fail(overloaded)
		sc := s.next(t) // of the second try: its holder dies now
		dead := w.r
		must(t, w.st.Update(ctx(t), func(tx store.Tx) error {
			row, err := tx.LockSession(id)
			if err != nil {
				return err
			}
			row.TurnOwner, row.TurnFence, row.TurnUntil = "turn_dead", row.TurnFence+1, time.Now()
			return tx.UpdateSession(row)
		}))
		w.start()
		next := s.next(t)
		if next.Attempt != 1 {
			t.Errorf("the crash gave fresh tries: attempt %d", next.Attempt)
		}
		sc.say("of the dead")
		next.say("of the living")
		l := w.idle(id, api.StopEndTurn)
		equal(t, texts(l), []string{"of the living"})
		got := types(l)
		i := len(got) - 8
		equal(t, got[i:], []string{"span.model_request_start", "span.model_request_end", "span.model_request_start", "agent.message", "span.model_request_end", "session.thread_status_idle", "session.usage", "session.status_idle"})
		if end := l[i+1].(*api.SpanModelRequestEnd); !end.IsError || end.ModelRequestStartID != l[i].Head().ID {
			t.Errorf("%+v", end)
		}
		now, cancel := context.WithCancel(context.Background())
		cancel()
		must(t, dead.Stop(now))
	})
}

// Two replicas over one database: one runs the turn, the other's interrupt
// reaches it by the store.
func TestReplicas(t *testing.T) {
	storetest.Each(t, func(t *testing.T, st store.Store) {
		if !st.Shared() {
			t.Skip("by design: one process alone has this store")
		}
		const lease = 4 * time.Second // longer than the machine may stand still
		w, s := staged(t, st, func(c *turn.Config) {
			c.Lease, c.Renew, c.Sweep = lease, 50*time.Millisecond, 50*time.Millisecond
		})
		first := w.r
		w.start()
		second := w.r
		defer func() {
			now, cancel := context.WithCancel(context.Background())
			cancel()
			must(t, first.Stop(now))
		}()
		s1, err := first.Create(ctx(t), turn.NewSession{EnvironmentID: w.env, Agent: actor(), InitialEvents: raws(message("hi"))})
		must(t, err)
		sc := s.next(t)
		// Held for longer than a lease, it is not taken away.
		fence := w.session(s1.ID).TurnFence
		was := w.session(s1.ID).TurnUntil
		deadline := time.After(patience)
		for tick := time.Tick(20 * time.Millisecond); w.session(s1.ID).TurnUntil.Sub(was) <= lease; {
			select {
			case <-tick:
			case <-deadline:
				t.Fatal("the lease is not renewed")
			}
		}
		s.none(t)
		if got := w.session(s1.ID).TurnFence; got != fence {
			t.Fatalf("the lease was taken: %d, %d", got, fence)
		}
		if _, err := second.Accept(ctx(t), s1.ID, raws(interrupt)); err != nil {
			t.Fatal(err)
		}
		select {
		case <-sc.ctx.Done():
		case <-time.After(patience):
			t.Fatal("the other replica's interrupt did not end the request")
		}
		w.idle(s1.ID, api.StopEndTurn)
	})
}
