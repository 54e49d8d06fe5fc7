package sqlite

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/store/record"
)

// reader is a store.Reader on a connection that is in a transaction.
type reader struct{ c *conn }

const (
	keyColumns     = `id, kind, coalesce(environment_id, ''), name, hash, created_at, last_used_at, revoked_at`
	sessionColumns = `s.id, s.environment_id, s.status, s.created_at, s.updated_at, s.archived_at, s.counts, s.thread_id, s.pos, s.emit,
		s.last_processed_at, s.turn, s.turn_owner, s.turn_fence, s.turn_until, s.turn_since, s.stop_reason, s.has_input, s.last_input_at, p.profile`
	sessionTables = ` FROM sessions s JOIN session_profiles p ON p.session_id = s.id `
	eventColumns  = `session_id, id, type, pos, emit, processed_at, body`
	callColumns   = `session_id, id, kind, name, state, pos, request_id, answer_id, answer_digest`
	replayColumns = `session_id, request_id, pos, provider, content, call_ids`
	sendColumns   = `session_id, name, digest, event_ids, at`
	workColumns   = `id, environment_id, session_id, state, metadata, has_input, token_id, token_hash, created_at, not_before, prefer_worker,
		prefer_until, delivered_at, delivered_to, acked_at, acked_by_key, started_at, heartbeat_at, last_heartbeat, prev_expected, beat_by_token,
		ttl_seconds, lease_until, due_at, stop_requested_at, stopped_at, ended_by, superseded_by, streamed, tries, possibly_started`
	workToken = 6 // the place of token_id

	keyByID         = `SELECT ` + keyColumns + ` FROM keys WHERE id = ?`
	environmentByID = `SELECT body FROM environments WHERE id = ?`
	sessionByID     = `SELECT ` + sessionColumns + sessionTables + `WHERE s.id = ?`
	workByID        = `SELECT ` + workColumns + ` FROM work WHERE id = ?`
	liveWork        = `SELECT ` + workColumns + ` FROM work WHERE session_id = ? AND state <> 'stopped'`
	lastWork        = `SELECT ` + workColumns + ` FROM work WHERE id = coalesce(
		(SELECT id FROM work WHERE session_id = ? AND state <> 'stopped'), (SELECT max(id) FROM work WHERE session_id = ?))`
)

// Names of columns in the order of their rows, "" for those that never change.
var (
	sessionNames = []string{"", "", "status", "", "updated_at", "archived_at", "counts", "", "pos", "emit", "last_processed_at",
		"turn", "turn_owner", "turn_fence", "turn_until", "turn_since", "stop_reason", "has_input", "last_input_at"}
	workNames = []string{"", "", "", "state", "metadata", "has_input", "token_id", "token_hash", "", "not_before", "prefer_worker", "prefer_until",
		"delivered_at", "delivered_to", "acked_at", "acked_by_key", "started_at", "heartbeat_at", "last_heartbeat", "prev_expected", "beat_by_token",
		"ttl_seconds", "lease_until", "due_at", "stop_requested_at", "stopped_at", "ended_by", "superseded_by", "streamed", "tries", "possibly_started"}
)

func (r *reader) Key(publicID string) (plane.Key, error) {
	return one(r.c, "key", record.Key, keyByID, publicID)
}

func (r *reader) Keys(environment string) ([]plane.Key, error) {
	return list(r.c, record.Key, `SELECT `+keyColumns+` FROM keys WHERE environment_id IS nullif(?, '') ORDER BY created_at, id`, environment)
}

func (r *reader) Environment(id string) (plane.Environment, error) {
	return one(r.c, "environment", record.Environment, environmentByID, id)
}

func (r *reader) EnvironmentNamed(name string) (plane.Environment, error) {
	return one(r.c, "environment", record.Environment, `SELECT body FROM environments WHERE name = ?`, name)
}

func (r *reader) Environments(includeArchived bool, w store.Window) ([]plane.Environment, error) {
	q := where(`SELECT body FROM environments`)
	if !includeArchived {
		q.and(`archived_at IS NULL`)
	}
	q.window("id", w)
	return list(r.c, record.Environment, q.sql(), q.values...)
}

func (r *reader) Agent(id string, version int) (plane.AgentVersion, error) {
	if version == 0 {
		return one(r.c, "agent", record.AgentVersion, `SELECT body FROM agents WHERE id = ? AND latest = 1`, id)
	}
	return one(r.c, "agent version", record.AgentVersion, `SELECT body FROM agents WHERE id = ? AND version = ?`, id, version)
}

func (r *reader) Agents(f store.AgentFilter, w store.Window) ([]plane.AgentVersion, error) {
	q := where(`SELECT body FROM agents`)
	q.and(`latest = 1`)
	if !f.IncludeArchived {
		q.and(`archived_at IS NULL`)
	}
	q.within("created_at", store.TimeRange{GTE: f.CreatedGTE, LTE: f.CreatedLTE})
	q.window("id", w)
	return list(r.c, record.AgentVersion, q.sql(), q.values...)
}

func (r *reader) AgentVersions(id string, w store.Window) ([]plane.AgentVersion, error) {
	q := where(`SELECT body FROM agents`)
	q.and(`id = ?`, id)
	after := w.After
	w.After = ""
	if after != "" {
		n, err := strconv.ParseInt(after, 10, 64)
		if err != nil {
			return nil, plane.Errorf(plane.Invalid, "the cursor is not one of this list").In("page")
		}
		q.and(`version `+beyond(w)+` ?`, n)
	}
	q.window("version", w)
	return list(r.c, record.AgentVersion, q.sql(), q.values...)
}

func (r *reader) Session(id string) (plane.Session, error) {
	return one(r.c, "session", record.Session, sessionByID, id)
}

func (r *reader) Sessions(f store.SessionFilter, w store.Window) ([]plane.Session, error) {
	q := where(`SELECT ` + sessionColumns + sessionTables)
	if f.EnvironmentID != "" {
		q.and(`s.environment_id = ?`, f.EnvironmentID)
	}
	if f.AgentID != "" {
		q.and(`s.agent_id = ?`, f.AgentID)
	}
	if f.AgentVersion != 0 {
		q.and(`s.agent_version = ?`, f.AgentVersion)
	}
	if len(f.Statuses) > 0 {
		q.and(`s.status IN (SELECT value FROM json_each(?))`, jsonText(f.Statuses))
	}
	if !f.IncludeArchived {
		q.and(`s.archived_at IS NULL`)
	}
	q.within("s.created_at", f.Created)
	q.window("s.id", w)
	return list(r.c, record.Session, q.sql(), q.values...)
}

func (r *reader) SessionsWanted(now time.Time, limit int) ([]string, error) {
	return list(r.c, record.ID, `SELECT id FROM sessions WHERE turn = 'wanted' AND (turn_until IS NULL OR turn_until <= ?)
		ORDER BY id LIMIT ?`, now, bound(limit))
}

func (r *reader) LiveSessions(environment string) (int, error) {
	n, err := one(r.c, "count", record.Int, `SELECT count(*) FROM sessions
		WHERE environment_id = ? AND archived_at IS NULL AND status <> 'terminated'`, environment)
	return int(n), err
}

func (r *reader) Event(session, id string) (plane.StoredEvent, error) {
	return one(r.c, "event", record.Event, `SELECT `+eventColumns+` FROM events WHERE session_id = ? AND id = ?`, session, id)
}

func (r *reader) Events(session string, q store.EventQuery) (out []plane.StoredEvent, err error) {
	left := bound(q.Limit)
	part := func(queued bool) error {
		if left <= 0 {
			return nil
		}
		rows, err := r.events(session, q, queued, left)
		out, left = append(out, rows...), left-len(rows)
		return err
	}
	// Queued ones are last: the cursor is among them or before them all. One
	// that was queued may have got its place since.
	among := q.AfterQueued != ""
	switch {
	case q.Queued:
		return out, part(true)
	case q.Desc && (among || q.AfterPos == 0):
		if err := part(true); err != nil {
			return nil, err
		}
		q.AfterPos = 0
		return out, part(false)
	case q.Desc:
		return out, part(false)
	case !among || q.AfterPos != 0:
		if err := part(false); err != nil {
			return nil, err
		}
	}
	return out, part(true)
}

func (r *reader) events(session string, q store.EventQuery, queued bool, limit int) ([]plane.StoredEvent, error) {
	w := where(`SELECT ` + eventColumns + ` FROM events`)
	w.and(`session_id = ?`, session)
	beyond, direction := ` > ?`, ``
	if q.Desc {
		beyond, direction = ` < ?`, ` DESC`
	}
	if queued {
		w.and(`pos = 0`)
		if q.AfterQueued != "" {
			w.and(`id`+beyond, q.AfterQueued)
		}
	} else {
		w.and(`pos > 0`)
		if q.AfterPos != 0 {
			w.and(`pos`+beyond, q.AfterPos)
		}
	}
	if len(q.Types) > 0 {
		w.and(`type IN (SELECT value FROM json_each(?))`, jsonText(q.Types))
	}
	w.within("processed_at", q.Processed)
	if queued {
		w.tail(` ORDER BY id`+direction+` LIMIT ?`, limit)
	} else {
		w.tail(` ORDER BY pos`+direction+` LIMIT ?`, limit)
	}
	return list(r.c, record.Event, w.sql(), w.values...)
}

func (r *reader) Frames(session string, after int64, limit int) ([]plane.StoredEvent, error) {
	return list(r.c, record.Event, `SELECT `+eventColumns+` FROM events WHERE session_id = ? AND emit > ? ORDER BY emit LIMIT ?`,
		session, after, bound(limit))
}

func (r *reader) Call(session, id string) (plane.Call, error) {
	return one(r.c, "call", record.Call, `SELECT `+callColumns+` FROM calls WHERE session_id = ? AND id = ?`, session, id)
}

func (r *reader) OpenCalls(session string) ([]plane.Call, error) {
	return list(r.c, record.Call, `SELECT `+callColumns+` FROM calls WHERE session_id = ? AND state IN ('asked', 'open') ORDER BY pos`, session)
}

func (r *reader) Calls(session string) ([]plane.Call, error) {
	return list(r.c, record.Call, `SELECT `+callColumns+` FROM calls WHERE session_id = ? ORDER BY pos`, session)
}

func (r *reader) Replays(session string, after int64) ([]plane.Replay, error) {
	return list(r.c, record.Replay, `SELECT `+replayColumns+` FROM replays WHERE session_id = ? AND pos > ? ORDER BY pos`, session, after)
}

func (r *reader) Send(session, key string) (plane.Send, error) {
	return one(r.c, "send", record.Send, `SELECT `+sendColumns+` FROM sends WHERE session_id = ? AND name = ?`, session, key)
}

func (r *reader) Work(id string) (plane.WorkItem, error) {
	return one(r.c, "work item", record.Work, workByID, id)
}

func (r *reader) WorkByToken(publicID string) (plane.WorkItem, error) {
	return one(r.c, "work item", record.Work, `SELECT `+workColumns+` FROM work WHERE token_id = ? AND token_id <> ''`, publicID)
}

func (r *reader) LiveWork(session string) (plane.WorkItem, error) {
	return one(r.c, "work item", record.Work, liveWork, session)
}

func (r *reader) LastWork(session string) (plane.WorkItem, error) {
	return one(r.c, "work item", record.Work, lastWork, session, session)
}

func (r *reader) WorkItems(environment string, w store.Window) ([]plane.WorkItem, error) {
	q := where(`SELECT ` + workColumns + ` FROM work`)
	q.and(`environment_id = ?`, environment)
	q.window("id", w)
	return list(r.c, record.Work, q.sql(), q.values...)
}

func (r *reader) NextOffer(environment string, now time.Time) (time.Time, error) {
	return one(r.c, "time", record.Time, `SELECT min(at) FROM (
		SELECT min(not_before) AS at FROM work
			WHERE environment_id = ? AND state = 'queued' AND not_before > ? AND delivered_at IS NULL
		UNION ALL
		SELECT min(prefer_until) FROM work
			WHERE environment_id = ? AND state = 'queued' AND prefer_until > ? AND prefer_worker <> '' AND delivered_at IS NULL)`,
		environment, now, environment, now)
}

func (r *reader) WorkDue(now time.Time, limit int) ([]plane.WorkItem, error) {
	return list(r.c, record.Work, `SELECT `+workColumns+` FROM work WHERE due_at <= ? ORDER BY due_at, id LIMIT ?`, now, bound(limit))
}

func (r *reader) NextDue() (time.Time, error) {
	return one(r.c, "time", record.Time, `SELECT min(due_at) FROM work WHERE due_at IS NOT NULL`)
}

func (r *reader) WorkStats(environment string, now time.Time) (store.WorkStats, error) {
	return one(r.c, "stats", func(row record.Row) (store.WorkStats, error) {
		return store.WorkStats{
			Depth: int(row.Int()), Delivered: int(row.Int()), OldestQueuedAt: row.TimePtr(),
			Pending: int(row.Int()), WorkersPolling: int(row.Int()),
		}, nil
	}, `SELECT count(*) FILTER (WHERE delivered_at IS NULL), count(*) FILTER (WHERE delivered_at IS NOT NULL), min(created_at),
			(SELECT count(*) FROM work WHERE environment_id = ? AND state IN ('starting', 'active', 'stopping')),
			(SELECT count(*) FROM workers WHERE environment_id = ? AND seen_at > ?)
		FROM work WHERE environment_id = ? AND state = 'queued'`,
		environment, environment, now.Add(-30*time.Second), environment)
}

func (r *reader) Setting(name string) (string, error) {
	v, err := one(r.c, "setting", record.ID, `SELECT value FROM settings WHERE name = ?`, name)
	if plane.KindOf(err) == plane.NotFound {
		return "", nil
	}
	return v, err
}

// query is a SELECT that grows conditions.
type query struct {
	text   strings.Builder
	word   string
	values []any
}

func where(text string) *query {
	q := &query{word: ` WHERE `}
	q.text.WriteString(text)
	return q
}

func (q *query) and(condition string, values ...any) {
	q.text.WriteString(q.word)
	q.text.WriteString(condition)
	q.word = ` AND `
	q.values = append(q.values, values...)
}

func (q *query) tail(text string, values ...any) {
	q.text.WriteString(text)
	q.values = append(q.values, values...)
}

func (q *query) within(column string, r store.TimeRange) {
	for _, b := range []struct {
		is string
		at time.Time
	}{{` > ?`, r.GT}, {` >= ?`, r.GTE}, {` < ?`, r.LT}, {` <= ?`, r.LTE}} {
		if !b.at.IsZero() {
			q.and(column+b.is, b.at)
		}
	}
}

// window adds the page and the order, by column.
func (q *query) window(column string, w store.Window) {
	if w.After != "" {
		q.and(column+` `+beyond(w)+` ?`, w.After)
	}
	direction := ``
	if !ascending(w) {
		direction = ` DESC`
	}
	q.tail(` ORDER BY `+column+direction+` LIMIT ?`, bound(w.Limit))
}

func (q *query) sql() string { return q.text.String() }

func ascending(w store.Window) bool { return w.Asc != w.Backward }

func beyond(w store.Window) string {
	if ascending(w) {
		return `>`
	}
	return `<`
}

// bound is a LIMIT; zero is none.
func bound(limit int) int {
	if limit <= 0 {
		return math.MaxInt32
	}
	return limit
}

func jsonText(v any) string {
	b, _ := json.Marshal(v) // slices of strings
	return string(b)
}
