package turn

import "context"

// seat is room for a model request, kept by a transition that may begin one:
// the turn is taken up where it becomes wanted, which saves a transaction and
// its sync. While there is a seat, a cut finds the session's run.
type seat struct {
	r       *Runner
	session string
	at      *run
}

// taken is a turn as such a transition took it up.
type taken struct {
	claimed
	after int64  // the log's end before it
	said  []said // what it appended
}

// seat gives nil when there is no room at once; then the turn is claimed as
// any that is wanted.
func (r *Runner) seat(session string) *seat {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.started || r.take.Err() != nil {
		return nil
	}
	select {
	case r.slots <- struct{}{}:
	default:
		return nil
	}
	at := r.running[session]
	if at == nil {
		at = &run{}
		r.running[session] = at
	}
	at.seats++
	return &seat{r, session, at}
}

// leave gives the room up, or to the turn that was taken; nil is none.
func (s *seat) leave(t *taken) {
	if s == nil {
		return
	}
	r, at := s.r, s.at
	r.mu.Lock()
	at.seats--
	serve := t != nil && !at.serving && r.take.Err() == nil
	switch {
	case serve:
		at.taken, at.serving = t, true
		r.turns.Go(func() { r.serve(s.session, at, true) })
	case t != nil && at.serving:
		// Of two, the older was cut off by what came between.
		if at.taken == nil || t.s.TurnFence > at.taken.s.TurnFence {
			at.taken, at.again = t, true
		}
		t = nil
	case at.seats == 0 && !at.serving:
		delete(r.running, s.session)
	}
	r.mu.Unlock()
	if serve {
		return
	}
	<-r.slots
	if t != nil {
		r.letGo(&t.claimed, t.span)
	}
}

// catchUp has a history follow the log to where a turn was taken up.
func (r *Runner) catchUp(ctx context.Context, h *history, t *taken) error {
	if h.pos != t.after {
		if err := r.warm(ctx, h); err != nil {
			return err
		}
	} else {
		for _, s := range t.said {
			h.said(s)
		}
	}
	h.pos, h.attempts = max(h.pos, t.s.Pos), 0
	return nil
}
