package workertest

import (
	"encoding/json"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/berthdev/berth/api"
)

func (p *Plane) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/environments/{e}/work/poll", p.serve(Poll, p.poll))
	mux.HandleFunc("GET /v1/environments/{e}/work", p.serve(ListWork, p.listWork))
	mux.HandleFunc("POST /v1/environments/{e}/work/{w}/ack", p.serve(Ack, p.onItem(func(it *item, _ *http.Request, _ []byte) (any, *failure) { return p.ack(it) })))
	mux.HandleFunc("POST /v1/environments/{e}/work/{w}/heartbeat", p.serve(Beat, p.onItem(func(it *item, r *http.Request, _ []byte) (any, *failure) {
		return p.beat(it, r.URL.Query().Get("expected_last_heartbeat"))
	})))
	mux.HandleFunc("POST /v1/environments/{e}/work/{w}/stop", p.serve(Stop, p.onItem(func(it *item, r *http.Request, body []byte) (any, *failure) {
		return p.stop(it, forced(body), strings.Split(r.Header.Get(api.BegunHeader), ","))
	})))
	mux.HandleFunc("GET /v1/sessions/{s}", p.serve(GetSession, p.onSession(func(s *Session, _ *http.Request, _ []byte) (any, *failure) { return s.wire(), nil })))
	mux.HandleFunc("GET /v1/sessions/{s}/events", p.serve(List, p.onSession(list)))
	mux.HandleFunc("POST /v1/sessions/{s}/events", p.serve(Send, p.onSession(func(s *Session, _ *http.Request, body []byte) (any, *failure) {
		var sent struct {
			Events []json.RawMessage `json:"events"`
		}
		if err := json.Unmarshal(body, &sent); err != nil || len(sent.Events) == 0 {
			return nil, failf(http.StatusBadRequest, "no events")
		}
		return s.send(sent.Events)
	})))
	mux.HandleFunc("GET /v1/sessions/{s}/events/stream", p.stream)
	mux.HandleFunc("GET /v1/skills/{k}/versions", p.serve(GetSkill, p.skillVersions))
	mux.HandleFunc("GET /v1/skills/{k}/versions/{v}", p.serve(GetSkill, p.onSkill(func(s Skill) any { return s.wire() })))
	mux.HandleFunc("GET /v1/skills/{k}/versions/{v}/content", p.serve(LoadSkill, p.onSkill(func(s Skill) any { return s.Archive })))
	mux.HandleFunc("GET /v1/memory_stores/{m}/memories", p.serve(ListMemories, p.onStore(false, listMemories)))
	mux.HandleFunc("POST /v1/memory_stores/{m}/memories", p.serve(CreateMemory, p.onStore(true, createMemory)))
	mux.HandleFunc("GET /v1/memory_stores/{m}/memories/{id}", p.serve(GetMemory, p.onMemory(false, getMemory)))
	mux.HandleFunc("POST /v1/memory_stores/{m}/memories/{id}", p.serve(UpdateMemory, p.onMemory(true, updateMemory)))
	mux.HandleFunc("DELETE /v1/memory_stores/{m}/memories/{id}", p.serve(DeleteMemory, p.onMemory(true, deleteMemory)))
	return mux
}

func forced(body []byte) bool {
	var s api.StopWork
	return json.Unmarshal(body, &s) == nil && s.Force
}

// answer makes an endpoint's answer with mu held, and may let go of it.
type answer func(r *http.Request, body []byte) (any, *failure)

// serve wraps an endpoint in the plane's trouble and its record of requests.
func (p *Plane) serve(route Route, do answer) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		req := Request{
			Route: route, Credential: bearer(r), Work: r.PathValue("w"), Session: r.PathValue("s"), WorkerID: r.Header.Get("Anthropic-Worker-ID"),
			Expected: r.URL.Query().Get("expected_last_heartbeat"), Force: route == Stop && forced(body), Begun: r.Header.Get(api.BegunHeader), At: time.Now(),
			Store: r.PathValue("m"), Query: r.URL.RawQuery,
		}
		f := p.trouble(route, w, r)
		if !pause(r, f.Delay) {
			return
		}
		if f.Status != 0 || f.Reset {
			req.Status = f.Status
			p.note(req)
			p.refuse(f, w, r)
			return
		}
		p.mu.Lock()
		if route == Beat {
			p.meddle(f, req.Work)
		}
		out, fail := do(r, body)
		switch {
		case f.Lost:
		case fail != nil:
			req.Status = fail.status
		default:
			req.Status = http.StatusOK
		}
		p.seen(req) // with what the call did: who sees one sees the other
		p.mu.Unlock()
		if f.Lost {
			panic(http.ErrAbortHandler)
		}
		if fail != nil {
			fail.write(w)
			return
		}
		if raw, ok := out.([]byte); ok {
			w.Header().Set("Content-Type", "application/octet-stream")
			_, _ = w.Write(raw)
			return
		}
		raw, err := json.Marshal(out)
		if err != nil {
			panic(err) // wire types marshal
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(raw)
	}
}

// trouble is what a call meets, a Fault of nothing where all is well. It sets
// the answer's headers.
func (p *Plane) trouble(route Route, w http.ResponseWriter, r *http.Request) *Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.jumps > 0 {
		w.Header().Set("Date", p.clock().Format(http.TimeFormat))
	}
	f := p.fault(route, r)
	if f == nil {
		return &Fault{}
	}
	for k, v := range f.Header {
		w.Header()[k] = v
	}
	return f
}

// refuse answers a call that is not done.
func (p *Plane) refuse(f *Fault, w http.ResponseWriter, r *http.Request) {
	if f.Reset {
		reset(w)
		return
	}
	if f.Status < 300 {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(f.Status)
		_, _ = io.WriteString(w, f.Body)
		return
	}
	fail := failf(f.Status, "injected")
	if f.Status == http.StatusPreconditionFailed {
		p.mu.Lock()
		if it := p.find(r.PathValue("w")); it != nil {
			fail = p.precondition(it)
		}
		p.mu.Unlock()
	}
	fail.write(w)
}

func (p *Plane) note(r Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen(r)
}

// seen needs mu.
func (p *Plane) seen(r Request) {
	p.requests = append(p.requests, r)
	p.change()
}

func pause(r *http.Request, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-r.Context().Done():
		return false
	}
}

// poll holds the call until there is an item or block_ms has passed.
func (p *Plane) poll(r *http.Request, _ []byte) (any, *failure) {
	if bearer(r) != EnvironmentKey {
		return nil, failf(http.StatusUnauthorized, "no key of this environment")
	}
	if r.PathValue("e") != EnvironmentID {
		return nil, failf(http.StatusNotFound, "no such environment")
	}
	reclaim := 5 * time.Second
	if ms, err := strconv.Atoi(r.URL.Query().Get("reclaim_older_than_ms")); err == nil {
		reclaim = time.Duration(ms) * time.Millisecond
	}
	var block time.Duration
	if s := r.URL.Query().Get("block_ms"); s != "" {
		ms, err := strconv.Atoi(s)
		if err != nil || ms < 1 || ms > 999 {
			return nil, failf(http.StatusBadRequest, "block_ms: %q is not between 1 and 999", s)
		}
		block = time.Duration(ms) * time.Millisecond
	}
	deadline := time.NewTimer(block)
	defer deadline.Stop()
	// Leases lapse and deliveries get old without a change.
	sweep := time.NewTicker(20 * time.Millisecond)
	defer sweep.Stop()
	for {
		if it := p.next(reclaim); it != nil {
			return it.wire(true), nil
		}
		changed := p.changed
		if p.closing {
			return nil, nil
		}
		p.mu.Unlock()
		over := block == 0
		select {
		case <-changed:
		case <-sweep.C:
		case <-deadline.C:
			over = true
		case <-r.Context().Done():
			over = true
		}
		p.mu.Lock()
		if over {
			return nil, nil
		}
	}
}

func (p *Plane) onItem(do func(*item, *http.Request, []byte) (any, *failure)) answer {
	return func(r *http.Request, body []byte) (any, *failure) {
		it := p.find(r.PathValue("w"))
		switch {
		case it == nil || r.PathValue("e") != EnvironmentID:
			return nil, failf(http.StatusNotFound, "no such item")
		case !it.may(bearer(r)):
			return nil, failf(http.StatusUnauthorized, "not for this item")
		}
		return do(it, r, body)
	}
}

// holder is the session's item that a credential belongs to; the environment's
// key has none. It needs mu.
func (p *Plane) holder(s *Session, credential string) (*item, *failure) {
	if credential == EnvironmentKey {
		return nil, nil
	}
	for _, it := range p.items {
		if it.session == s && it.token == credential {
			if it.state == api.WorkStopped {
				return nil, failf(http.StatusUnauthorized, "the token is no longer good")
			}
			return it, nil
		}
	}
	return nil, failf(http.StatusUnauthorized, "no good credential")
}

func (p *Plane) onSession(do func(*Session, *http.Request, []byte) (any, *failure)) answer {
	return func(r *http.Request, body []byte) (any, *failure) {
		s := p.sessions[r.PathValue("s")]
		if s == nil {
			return nil, failf(http.StatusNotFound, "no such session")
		}
		if _, fail := p.holder(s, bearer(r)); fail != nil {
			return nil, fail
		}
		return do(s, r, body)
	}
}

// list pages by a cursor that is a number, at most 50 events a page so that
// paging happens.
func list(s *Session, r *http.Request, _ []byte) (any, *failure) {
	from := 0
	if c := r.URL.Query().Get("page"); c != "" {
		n, err := strconv.Atoi(c)
		if err != nil || n < 0 || n > len(s.log) {
			return nil, failf(http.StatusBadRequest, "page: no cursor")
		}
		from = n
	}
	to := min(from+50, len(s.log))
	page := struct {
		Data     []json.RawMessage `json:"data"`
		NextPage *string           `json:"next_page"`
	}{Data: []json.RawMessage{}}
	for i, e := range s.log[from:to] {
		if !s.superseded(from + i) {
			page.Data = append(page.Data, e.raw)
		}
	}
	if to < len(s.log) {
		next := strconv.Itoa(to)
		page.NextPage = &next
	}
	return page, nil
}

// superseded says that an event is in the log again, later, processed.
func (s *Session) superseded(i int) bool {
	return slices.ContainsFunc(s.log[i+1:], func(e entry) bool { return e.id == s.log[i].id })
}

// stream tails a session from now on.
func (p *Plane) stream(w http.ResponseWriter, r *http.Request) {
	req := Request{Route: Stream, Credential: bearer(r), Session: r.PathValue("s"), Status: http.StatusOK, At: time.Now()}
	f := p.trouble(Stream, w, r)
	if !pause(r, f.Delay) {
		return
	}
	if f.Status != 0 || f.Reset {
		req.Status = f.Status
		p.note(req)
		p.refuse(f, w, r)
		return
	}
	p.mu.Lock()
	s := p.sessions[r.PathValue("s")]
	var fail *failure
	var it *item
	at := 0
	if s == nil {
		fail = failf(http.StatusNotFound, "no such session")
	} else if it, fail = p.holder(s, bearer(r)); fail == nil {
		at = len(s.log)
		it.show(s.open()) // what is listed is shown as well
	}
	life := p.life
	p.mu.Unlock()
	if fail != nil {
		req.Status = fail.status
		p.note(req)
		fail.write(w)
		return
	}
	p.note(req)
	w.Header().Set("Content-Type", "text/event-stream")
	w.WriteHeader(http.StatusOK)
	if http.NewResponseController(w).Flush() != nil {
		return
	}
	var end <-chan time.Time
	if life.max > 0 {
		t := time.NewTimer(life.min + rand.N(life.max-life.min+1))
		defer t.Stop()
		end = t.C
	}
	out := &frames{to: w}
	late := time.NewTimer(time.Hour)
	defer late.Stop()
	for {
		p.mu.Lock()
		older := s.log[:min(at, len(s.log))]
		fresh := slices.Clone(s.log[len(older):])
		at = len(s.log)
		trouble := make([]FrameTrouble, len(fresh))
		for i, e := range fresh {
			trouble[i] = p.frameFault(e.kind)
			if e.kind == api.TypeAgentToolUse {
				it.show([]string{e.id})
			}
		}
		changed, over := p.changed, p.closing || it != nil && it.state == api.WorkStopped
		p.mu.Unlock()
		if !out.write(fresh, trouble, older) || over {
			return
		}
		if out.late != nil {
			late.Reset(lateFrame)
		}
		select {
		case <-changed:
		case <-late.C:
			if out.late != nil {
				out.frame(*out.late)
				out.late = nil
			}
		case <-end:
			return
		case <-r.Context().Done():
			return
		}
	}
}
