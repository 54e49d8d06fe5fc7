package turn

import (
	"context"
	"encoding/json"
	"reflect"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/crash"
	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
)

// NewSession is a session to be made. Agent is the snapshot the session will
// keep; the caller has applied overrides, resolved versions and checked the
// metadata.
type NewSession struct {
	EnvironmentID string
	Agent         api.SessionAgent
	Title         *string
	Metadata      api.Metadata
	InitialEvents []json.RawMessage
}

// Create stores a session with its work item and, if it has initial events,
// begins its first turn. Invalid names the field at fault; NotFound is about
// the environment.
func (r *Runner) Create(ctx context.Context, n NewSession) (plane.Session, error) {
	initial, err := plane.ParseSent("initial_events", n.InitialEvents)
	if err != nil {
		return plane.Session{}, err
	}
	var s plane.Session
	var t *taken
	id := plane.NewID(plane.PrefixSession)
	var room *seat
	if len(initial) > 0 {
		room = r.seat(id)
	}
	err = r.cfg.Store.Update(ctx, func(tx store.Tx) error {
		t = nil
		env, err := tx.Environment(n.EnvironmentID)
		if err != nil {
			return err
		}
		if env.ArchivedAt != nil {
			return plane.Errorf(plane.Invalid, "environment %s is archived", env.ID).In("environment_id").WithCode("environment_archived")
		}
		s = blank(id, n)
		if err := tx.InsertSession(s); err != nil {
			return err
		}
		c := r.change(tx, &s)
		if len(initial) > 0 {
			c.add(fresh(initial)...)
			s.HasInput, s.LastInputAt = true, &c.now
			c.run()
		}
		if err := r.cfg.Queue.Offer(tx, &s); err != nil {
			return err
		}
		if !c.dirty {
			return nil
		}
		if room == nil {
			return c.save()
		}
		c.hold()
		span := c.ask()
		if err := c.save(); err != nil {
			return err
		}
		t = &taken{claimed: claimed{s: s, span: span}, said: c.said}
		return nil
	})
	if err != nil {
		room.leave(nil)
		return plane.Session{}, err
	}
	if s.Turn == plane.TurnWanted {
		crash.At("turn.accepted")
	}
	room.leave(t)
	if s.Turn == plane.TurnWanted && t == nil {
		r.wake(s.ID)
	}
	return s, nil
}

func blank(id string, n NewSession) plane.Session {
	now := time.Now().UTC().Truncate(time.Microsecond)
	s := plane.Session{
		Session: api.Session{
			ID:                 id,
			Type:               "session",
			EnvironmentID:      n.EnvironmentID,
			Title:              n.Title,
			Status:             api.SessionIdle,
			Agent:              n.Agent,
			Resources:          []json.RawMessage{},
			Metadata:           n.Metadata,
			VaultIDs:           []string{},
			OutcomeEvaluations: []json.RawMessage{},
			CreatedAt:          now,
			UpdatedAt:          now,
		},
		ThreadID: plane.NewID(plane.PrefixThread),
		Turn:     plane.TurnRest,
	}
	if s.Metadata == nil {
		s.Metadata = api.Metadata{}
	}
	return s
}

// Update changes the title, the metadata and the tools of the agent, and says
// so in the log when anything differs. Tools apply from the next turn; Invalid
// when one is running.
func (r *Runner) Update(ctx context.Context, session string, u api.UpdateSession) (plane.Session, error) {
	if err := plane.CheckUpdateSession(u); err != nil {
		return plane.Session{}, err
	}
	var tools []api.Tool
	if u.Agent.Value.Tools.Set {
		var err error
		if tools, err = plane.ResolveTools("agent.tools", u.Agent.Value.Tools.Value); err != nil {
			return plane.Session{}, err
		}
	}
	if len(u.Agent.Value.MCPServers.Value) > 0 {
		return plane.Session{}, plane.Errorf(plane.Invalid, "MCP servers are not supported by this server yet").In("agent.mcp_servers")
	}
	var s plane.Session
	err := r.cfg.Store.Update(ctx, func(tx store.Tx) (err error) {
		if s, err = tx.LockSession(session); err != nil {
			return err
		}
		if s.ArchivedAt != nil || s.Status == api.SessionTerminated {
			return plane.Errorf(plane.Invalid, "session %s has ended and cannot be changed", session)
		}
		c := r.change(tx, &s)
		changed := &api.SessionUpdated{EventHead: at(api.TypeSessionUpdated)}
		differs := false
		if u.Title.Set {
			title := &u.Title.Value
			if u.Title.Null {
				title = nil
			}
			if deref(title) != deref(s.Title) || (title == nil) != (s.Title == nil) {
				s.Title, changed.Title, differs = title, title, true
			}
		}
		if u.Metadata.Set {
			next := plane.PatchMetadata(s.Metadata, u.Metadata.Value, false)
			if err := plane.CheckMetadata("metadata", next); err != nil {
				return err
			}
			if !reflect.DeepEqual(next, s.Metadata) {
				s.Metadata, changed.Metadata, differs = next, next, true
			}
		}
		if u.Agent.Value.Tools.Set && !reflect.DeepEqual(tools, s.Agent.Tools) {
			if s.Status != api.SessionIdle {
				return plane.Errorf(plane.Invalid, "the tools of a session cannot change while it is %s; interrupt it first", s.Status).In("agent.tools")
			}
			s.Agent.Tools = tools
			agent := s.Agent
			changed.Agent, differs = &agent, true
		}
		if !differs {
			return nil
		}
		c.add(changed)
		return c.save()
	})
	return s, err
}

// Archive ends a session that is not running: it takes no more events, its
// open calls are void, session.status_terminated lets its worker go at once,
// its log stays readable. Archiving twice is fine.
func (r *Runner) Archive(ctx context.Context, session string) (plane.Session, error) {
	var s plane.Session
	err := r.cfg.Store.Update(ctx, func(tx store.Tx) (err error) {
		if s, err = tx.LockSession(session); err != nil || s.ArchivedAt != nil {
			return err
		}
		if err := atRest(s, "archived"); err != nil {
			return err
		}
		c := r.change(tx, &s)
		if err := c.terminate(); err != nil {
			return err
		}
		s.ArchivedAt = &c.now
		return c.save()
	})
	if err == nil {
		r.histories.drop(session)
	}
	return s, err
}

// Delete removes a session that is not running, with its log. Open streams
// get session.deleted.
func (r *Runner) Delete(ctx context.Context, session string) error {
	err := r.cfg.Store.Update(ctx, func(tx store.Tx) error {
		s, err := tx.LockSession(session)
		if err != nil {
			return err
		}
		if err := atRest(s, "deleted"); err != nil {
			return err
		}
		if err := r.cfg.Queue.EndSession(tx, session); err != nil {
			return err
		}
		if err := tx.DeleteSession(session); err != nil {
			return err
		}
		tx.Notify(store.Note{Session: session, Deleted: true})
		return nil
	})
	if err == nil {
		r.histories.drop(session)
	}
	return err
}

func atRest(s plane.Session, what string) error {
	if s.Status == api.SessionRunning || s.Status == api.SessionRescheduling {
		return plane.Errorf(plane.Invalid, "session %s is %s and cannot be %s; send a user.interrupt first", s.ID, s.Status, what)
	}
	return nil
}

// Terminate ends a session for good, whatever it is doing. Its log stays
// readable. Terminating twice is fine.
func (r *Runner) Terminate(ctx context.Context, session string) (plane.Session, error) {
	var s plane.Session
	err := r.cfg.Store.Update(ctx, func(tx store.Tx) (err error) {
		if s, err = tx.LockSession(session); err != nil || s.Status == api.SessionTerminated {
			return err
		}
		c := r.change(tx, &s)
		if err := c.terminate(); err != nil {
			return err
		}
		return c.save()
	})
	if err == nil {
		r.cut(session, s.TurnFence)
		r.histories.drop(session)
	}
	return s, err
}

// terminate leaves nothing open, no request, no call, no work item, and says
// so: a worker that reads the session's stream lets go at once.
func (c *change) terminate() error {
	if c.s.Status == api.SessionTerminated {
		return nil
	}
	if err := c.cutOff(); err != nil {
		return err
	}
	if _, err := c.void(""); err != nil {
		return err
	}
	if c.s.TurnSince != nil {
		active := max(0, c.now.Sub(*c.s.TurnSince).Seconds())
		c.s.Stats.ActiveSeconds += active
		c.s.Usage.ActiveSeconds += active
		c.s.TurnSince = nil
	}
	c.s.Turn = plane.TurnRest
	c.s.Status = api.SessionTerminated
	c.add(c.threadStatus(api.TypeSessionThreadStatusTerminated),
		&api.SessionStatusTerminated{EventHead: at(api.TypeSessionStatusTerminated)})
	return c.r.cfg.Queue.EndSession(c.tx, c.s.ID)
}

// GiveUp is for the queue: it ends the turn of a session that no worker
// serves. Open calls get an error result, the client sees session.error and
// an idle with retries_exhausted. The caller holds the row and stores s.
func (r *Runner) GiveUp(tx store.Tx, s *plane.Session, reason string) error {
	c := r.change(tx, s)
	if err := c.cutOff(); err != nil {
		return err
	}
	if _, err := c.void("This call was given up: " + reason); err != nil {
		return err
	}
	c.add(&api.SessionError{EventHead: at(api.TypeSessionError), Error: api.SessionErrorBody{
		Type: api.SessionErrUnknown, Message: reason, RetryStatus: api.RetryStatus{Type: api.RetryExhausted}}})
	if err := c.process(); err != nil {
		return err
	}
	c.idle(api.StopReason{Type: api.StopRetriesExhausted}, nil)
	_, err := c.flush()
	s.UpdatedAt = c.now
	// Should the transaction fail, the sweep takes the turn up again.
	r.cut(s.ID, s.TurnFence)
	return err
}
