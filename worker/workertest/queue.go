package workertest

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/berthdev/berth/api"
)

// item is one delivery of a session to a worker.
type item struct {
	id, token string
	session   *Session // nil for a health check
	state     api.WorkState
	created   time.Time
	delivered time.Time
	acked     time.Time
	beat      string          // the last one's time, "" before the first
	lease     time.Time       // end of it, zero before the ack
	streamed  map[string]bool // calls the holder has been shown
	possibly  []string
	stolen    bool // beats are answered with 412
	lapsing   bool // beats are answered with 503
	reticent  bool // see Reticent
	tries     int
}

// show notes that the item's holder has seen calls. It needs the plane's mu.
func (it *item) show(calls []string) {
	if it == nil {
		return
	}
	for _, id := range calls {
		it.streamed[id] = true
	}
}

// startup is how long an acked item may do without a beat.
const startup = 10 * time.Second

// offer makes an item for a session that has none. It needs mu.
func (p *Plane) offer(s *Session, tries int, possibly []string) *item {
	for _, it := range p.items {
		if it.session == s && it.state != api.WorkStopped {
			return it
		}
	}
	it := &item{
		id: p.id("work_"), state: api.WorkQueued, session: s, created: time.Now(), streamed: map[string]bool{},
		possibly: possibly, tries: tries, reticent: p.reticent,
	}
	it.token = "sk-test-req01-" + it.id
	p.items = append(p.items, it)
	p.change()
	return it
}

// HealthCheck queues an item that is no session.
func (p *Plane) HealthCheck() (work string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.offer(nil, 0, nil).id
}

// StopWork asks for the end of a session's live item, as an operator does.
func (p *Plane) StopWork(s *Session, force bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, it := range p.items {
		if it.session == s && it.state != api.WorkStopped {
			it.state = api.WorkStopping
			if force || it.acked.IsZero() {
				it.state = api.WorkStopped
			}
		}
	}
	p.change()
}

// StealLease makes the beats of a session's holder fail with 412, and offers
// the session again under a new id: what another claim looks like.
func (p *Plane) StealLease(s *Session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, it := range p.items {
		if it.session == s && it.state != api.WorkStopped {
			p.supersede(it, true)
			return
		}
	}
}

// supersede ends an item and offers its session anew; taken says that its
// holder could not have kept it. It needs mu.
func (p *Plane) supersede(it *item, taken bool) {
	it.state, it.stolen = api.WorkStopped, true
	if it.session == nil || it.session.status == api.SessionTerminated {
		return
	}
	var possibly []string
	for _, id := range it.session.open() {
		if it.streamed[id] || slices.Contains(it.possibly, id) {
			possibly = append(possibly, id)
			if taken {
				it.session.call(id).taken = true
			}
		}
	}
	p.offer(it.session, it.tries+1, possibly)
}

// Items says in what state a session's items are, oldest first.
func (p *Plane) Items(s *Session) []api.WorkState {
	p.mu.Lock()
	defer p.mu.Unlock()
	var states []api.WorkState
	for _, it := range p.items {
		if it.session == s {
			states = append(states, it.state)
		}
	}
	return states
}

// Live counts the items that are not stopped.
func (p *Plane) Live() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, it := range p.items {
		if it.state != api.WorkStopped {
			n++
		}
	}
	return n
}

// sweep lets leases lapse. It needs mu.
func (p *Plane) sweep() {
	for _, it := range slices.Clone(p.items) {
		if it.state == api.WorkStopped || it.lease.IsZero() || time.Now().Before(it.lease) {
			continue
		}
		if it.session != nil && it.session.busy() && it.state != api.WorkStopping {
			p.supersede(it, it.lapsing)
		} else {
			it.state = api.WorkStopped
		}
		p.change()
	}
}

// next finds an item to deliver. It needs mu.
func (p *Plane) next(reclaim time.Duration) *item {
	p.sweep()
	for _, it := range p.items {
		if it.state != api.WorkQueued {
			continue
		}
		switch {
		case it.delivered.IsZero():
			it.delivered = time.Now()
			return it
		case time.Since(it.delivered) > reclaim: // a new delivery is a new item
			it.state, it.stolen = api.WorkStopped, true
			n := p.offer(it.session, it.tries, it.possibly)
			n.delivered = time.Now()
			return n
		}
	}
	return nil
}

func (it *item) wire(secret bool) *api.Work {
	w := &api.Work{
		ID: it.id, Type: "work", EnvironmentID: EnvironmentID, State: it.state, Metadata: api.Metadata{}, CreatedAt: it.created.UTC(),
		Data: api.WorkData{Type: "healthcheck", ID: "hc_" + it.id},
	}
	if it.session != nil {
		w.Data = api.WorkData{Type: "session", ID: it.session.ID}
	}
	if !it.acked.IsZero() {
		at := it.acked.UTC()
		w.AcknowledgedAt = &at
	}
	if secret {
		begun := append([]string{}, it.possibly...)
		if it.reticent {
			begun = nil
		}
		raw, err := json.Marshal(api.WorkSecret{SessionsToken: it.token, PossiblyStarted: begun})
		if err != nil {
			panic(err) // strings
		}
		s := base64.RawURLEncoding.EncodeToString(raw)
		w.Secret = &s
	}
	return w
}

// listWork gives every item, the newest first.
func (p *Plane) listWork(r *http.Request, _ []byte) (any, *failure) {
	if bearer(r) != EnvironmentKey {
		return nil, failf(http.StatusUnauthorized, "no key of this environment")
	}
	page := api.Page[api.Work]{Data: []api.Work{}}
	for _, it := range slices.Backward(p.items) {
		w := it.wire(false)
		if at, err := time.Parse(time.RFC3339Nano, it.beat); err == nil {
			at = at.UTC()
			w.LatestHeartbeatAt = &at
		}
		page.Data = append(page.Data, *w)
	}
	return page, nil
}

// find needs mu.
func (p *Plane) find(work string) *item {
	for _, it := range p.items {
		if it.id == work {
			return it
		}
	}
	return nil
}

// may says whether a credential is good for an item: the environment's key or
// the item's own token. It needs mu.
func (it *item) may(credential string) bool {
	return credential == EnvironmentKey || credential == it.token
}

func (p *Plane) ack(it *item) (any, *failure) {
	switch {
	case it.state == api.WorkStopped, it.state == api.WorkStopping:
		return nil, &failure{status: http.StatusConflict, message: "the item is over or somebody else's", noRetry: true}
	case it.state == api.WorkQueued:
		it.state, it.acked = api.WorkStarting, time.Now()
		it.lease = it.acked.Add(startup)
		p.change()
	}
	return it.wire(false), nil
}

func (p *Plane) beat(it *item, expected string) (any, *failure) {
	p.sweep()
	answer := &api.Heartbeat{Type: "work_heartbeat", LastHeartbeat: it.beat, State: it.state, TTLSeconds: int(p.ttl / time.Second)}
	switch {
	case it.stolen:
		return nil, p.precondition(it)
	case it.state == api.WorkStopped:
		return answer, nil
	case it.lapsing:
		return nil, failf(http.StatusServiceUnavailable, "injected")
	case it.state == api.WorkStopping:
		it.lease = time.Now().Add(p.ttl)
		answer.LeaseExtended = true
		return answer, nil
	case it.acked.IsZero(), it.beat == "" && expected != api.NoHeartbeat, it.beat != "" && expected != it.beat:
		return nil, p.precondition(it)
	}
	it.beat = p.tick().Format(time.RFC3339Nano)
	it.lease = time.Now().Add(p.ttl)
	it.state = api.WorkActive
	answer.LastHeartbeat, answer.LeaseExtended, answer.State = it.beat, true, it.state
	p.change()
	return answer, nil
}

// precondition shows an item's lease as it is: of one that its holder lost,
// the lease of the item that came after it. It needs mu.
func (p *Plane) precondition(it *item) *failure {
	state := api.LeaseState{State: it.state, TTLSeconds: int(p.ttl / time.Second)}
	last := it.beat
	if it.stolen {
		state.State, last = api.WorkQueued, ""
		for _, next := range p.items {
			if next.session == it.session && next.state != api.WorkStopped {
				state.State, last = next.state, next.beat
			}
		}
	}
	if last != "" {
		state.LastHeartbeat = &last
	}
	return &failure{status: http.StatusPreconditionFailed, message: "the lease is not yours", details: map[string]any{
		"error_code": "heartbeat_precondition_failed", "error_visibility": "user_facing", "current_state": state,
	}}
}

// stop ends an item; begun are the calls that its holder may have begun.
func (p *Plane) stop(it *item, force bool, begun []string) (any, *failure) {
	switch {
	case it.state == api.WorkStopped:
	case force || it.acked.IsZero():
		it.state = api.WorkStopped
		// A holder that leaves work behind: somebody else may do it.
		if it.session != nil && it.session.busy() && it.tries < 20 {
			p.offer(it.session, it.tries+1, slices.DeleteFunc(begun, func(id string) bool { return !slices.Contains(it.session.open(), id) }))
		}
	default:
		it.state = api.WorkStopping
	}
	p.change()
	return it.wire(false), nil
}

func bearer(r *http.Request) string {
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return token
}
