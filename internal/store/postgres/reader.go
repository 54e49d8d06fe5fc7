package postgres

import (
	"encoding/json"
	"errors"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/store/record"
)

// reader is a store.Reader in a transaction. ask sends a query within it.
type reader struct {
	ask func(sql string, values []any, read func(*pgconn.ResultReader) error) error
}

// all reads every row of a query.
func all[T any](r *reader, read func(record.Row) (T, error), sql string, values ...any) (out []T, err error) {
	err = r.ask(sql, values, func(rr *pgconn.ResultReader) (err error) {
		out, err = list(rr, read)
		return err
	})
	if errors.Is(err, errNotStorable) {
		return nil, nil // so it is not stored
	}
	return out, err
}

// one reads the one row that a query gives; NotFound when it gives none.
func one[T any](r *reader, what string, read func(record.Row) (T, error), sql string, values ...any) (v T, err error) {
	rows, err := all(r, read, sql, values...)
	if err != nil {
		return v, err
	}
	if len(rows) == 0 {
		return v, plane.Errorf(plane.NotFound, "%s not found", what)
	}
	return rows[0], nil
}

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
)

func (r *reader) Key(publicID string) (plane.Key, error) {
	return one(r, "key", record.Key, `SELECT `+keyColumns+` FROM keys WHERE id = $1`, publicID)
}

func (r *reader) Keys(environment string) ([]plane.Key, error) {
	return all(r, record.Key, `SELECT `+keyColumns+` FROM keys WHERE environment_id = $1 OR ($1 = '' AND environment_id IS NULL) ORDER BY created_at, id`, environment)
}

func (r *reader) Environment(id string) (plane.Environment, error) {
	return one(r, "environment", record.Environment, `SELECT body FROM environments WHERE id = $1`, id)
}

func (r *reader) EnvironmentNamed(name string) (plane.Environment, error) {
	return one(r, "environment", record.Environment, `SELECT body FROM environments WHERE name = $1`, name)
}

func (r *reader) Environments(includeArchived bool, w store.Window) ([]plane.Environment, error) {
	q := where(`SELECT body FROM environments`)
	if !includeArchived {
		q.and(`archived_at IS NULL`)
	}
	q.window("id", w)
	return all(r, record.Environment, q.sql(), q.values...)
}

func (r *reader) Agent(id string, version int) (plane.AgentVersion, error) {
	if version == 0 {
		return one(r, "agent", record.AgentVersion, `SELECT body FROM agents WHERE id = $1 AND latest`, id)
	}
	return one(r, "agent version", record.AgentVersion, `SELECT body FROM agents WHERE id = $1 AND version = $2`, id, version)
}

func (r *reader) Agents(f store.AgentFilter, w store.Window) ([]plane.AgentVersion, error) {
	q := where(`SELECT body FROM agents`)
	q.and(`latest`)
	if !f.IncludeArchived {
		q.and(`archived_at IS NULL`)
	}
	q.within("created_at", store.TimeRange{GTE: f.CreatedGTE, LTE: f.CreatedLTE})
	q.window("id", w)
	return all(r, record.AgentVersion, q.sql(), q.values...)
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
	return all(r, record.AgentVersion, q.sql(), q.values...)
}

func (r *reader) Session(id string) (plane.Session, error) {
	return one(r, "session", record.Session, `SELECT `+sessionColumns+sessionTables+`WHERE s.id = $1`, id)
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
		q.and(`s.status = ANY (ARRAY(SELECT json_array_elements_text(?::json)))`, jsonText(f.Statuses))
	}
	if !f.IncludeArchived {
		q.and(`s.archived_at IS NULL`)
	}
	q.within("s.created_at", f.Created)
	q.window("s.id", w)
	return all(r, record.Session, q.sql(), q.values...)
}

func (r *reader) SessionsWanted(now time.Time, limit int) ([]string, error) {
	return all(r, record.ID, `SELECT id FROM sessions WHERE turn = 'wanted' AND (turn_until IS NULL OR turn_until <= $1)
		ORDER BY id LIMIT $2`, now, bound(limit))
}

func (r *reader) LiveSessions(environment string) (int, error) {
	n, err := one(r, "count", record.Int, `SELECT count(*) FROM sessions
		WHERE environment_id = $1 AND archived_at IS NULL AND status <> 'terminated'`, environment)
	return int(n), err
}

func (r *reader) Event(session, id string) (plane.StoredEvent, error) {
	return one(r, "event", record.Event, `SELECT `+eventColumns+` FROM events WHERE session_id = $1 AND id = $2`, session, id)
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
		w.and(`type = ANY (ARRAY(SELECT json_array_elements_text(?::json)))`, jsonText(q.Types))
	}
	w.within("processed_at", q.Processed)
	if queued {
		w.tail(` ORDER BY id`+direction+` LIMIT ?`, limit)
	} else {
		w.tail(` ORDER BY pos`+direction+` LIMIT ?`, limit)
	}
	return all(r, record.Event, w.sql(), w.values...)
}

func (r *reader) Frames(session string, after int64, limit int) ([]plane.StoredEvent, error) {
	return all(r, record.Event, `SELECT `+eventColumns+` FROM events WHERE session_id = $1 AND emit > $2 ORDER BY emit LIMIT $3`,
		session, after, bound(limit))
}

func (r *reader) Call(session, id string) (plane.Call, error) {
	return one(r, "call", record.Call, `SELECT `+callColumns+` FROM calls WHERE session_id = $1 AND id = $2`, session, id)
}

func (r *reader) OpenCalls(session string) ([]plane.Call, error) {
	return all(r, record.Call, `SELECT `+callColumns+` FROM calls WHERE session_id = $1 AND state IN ('asked', 'open') ORDER BY pos`, session)
}

func (r *reader) Calls(session string) ([]plane.Call, error) {
	return all(r, record.Call, `SELECT `+callColumns+` FROM calls WHERE session_id = $1 ORDER BY pos`, session)
}

func (r *reader) Replays(session string, after int64) ([]plane.Replay, error) {
	return all(r, record.Replay, `SELECT `+replayColumns+` FROM replays WHERE session_id = $1 AND pos > $2 ORDER BY pos`, session, after)
}

func (r *reader) Send(session, key string) (plane.Send, error) {
	return one(r, "send", record.Send, `SELECT `+sendColumns+` FROM sends WHERE session_id = $1 AND name = $2`, session, key)
}

func (r *reader) Work(id string) (plane.WorkItem, error) {
	return one(r, "work item", record.Work, `SELECT `+workColumns+` FROM work WHERE id = $1`, id)
}

func (r *reader) WorkByToken(publicID string) (plane.WorkItem, error) {
	return one(r, "work item", record.Work, `SELECT `+workColumns+` FROM work WHERE token_id = $1 AND token_id <> ''`, publicID)
}

func (r *reader) LiveWork(session string) (plane.WorkItem, error) {
	return one(r, "work item", record.Work, `SELECT `+workColumns+` FROM work WHERE session_id = $1 AND state <> 'stopped'`, session)
}

func (r *reader) LastWork(session string) (plane.WorkItem, error) {
	return one(r, "work item", record.Work, `SELECT `+workColumns+` FROM work WHERE id = coalesce(
		(SELECT id FROM work WHERE session_id = $1 AND state <> 'stopped'), (SELECT max(id) FROM work WHERE session_id = $1))`, session)
}

func (r *reader) WorkItems(environment string, w store.Window) ([]plane.WorkItem, error) {
	q := where(`SELECT ` + workColumns + ` FROM work`)
	q.and(`environment_id = ?`, environment)
	q.window("id", w)
	return all(r, record.Work, q.sql(), q.values...)
}

func (r *reader) NextOffer(environment string, now time.Time) (time.Time, error) {
	return one(r, "time", record.Time, `SELECT min(at) FROM (
		SELECT min(not_before) AS at FROM work
			WHERE environment_id = $1 AND state = 'queued' AND not_before > $2 AND delivered_at IS NULL
		UNION ALL
		SELECT min(prefer_until) FROM work
			WHERE environment_id = $3 AND state = 'queued' AND prefer_until > $4 AND prefer_worker <> '' AND delivered_at IS NULL) AS times`,
		environment, now, environment, now)
}

func (r *reader) WorkDue(now time.Time, limit int) ([]plane.WorkItem, error) {
	return all(r, record.Work, `SELECT `+workColumns+` FROM work WHERE due_at <= $1 ORDER BY due_at, id LIMIT $2`, now, bound(limit))
}

func (r *reader) NextDue() (time.Time, error) {
	return one(r, "time", record.Time, `SELECT min(due_at) FROM work WHERE due_at IS NOT NULL`)
}

func (r *reader) WorkStats(environment string, now time.Time) (store.WorkStats, error) {
	return one(r, "stats", func(row record.Row) (store.WorkStats, error) {
		return store.WorkStats{
			Depth: int(row.Int()), Delivered: int(row.Int()), OldestQueuedAt: row.TimePtr(),
			Pending: int(row.Int()), WorkersPolling: int(row.Int()),
		}, nil
	}, `SELECT count(*) FILTER (WHERE delivered_at IS NULL), count(*) FILTER (WHERE delivered_at IS NOT NULL), min(created_at),
			(SELECT count(*) FROM work WHERE environment_id = $1 AND state IN ('starting', 'active', 'stopping')),
			(SELECT count(*) FROM workers WHERE environment_id = $2 AND seen_at > $3)
		FROM work WHERE environment_id = $4 AND state = 'queued'`,
		environment, environment, now.Add(-30*time.Second), environment)
}

func (r *reader) Setting(name string) (string, error) {
	v, err := one(r, "setting", record.ID, `SELECT value FROM settings WHERE name = $1`, name)
	if plane.KindOf(err) == plane.NotFound {
		return "", nil
	}
	return v, err
}

// query is a SELECT that grows conditions; a ? in them is the next value.
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
	q.tail(q.word+condition, values...)
	q.word = ` AND `
}

func (q *query) tail(text string, values ...any) {
	q.values = append(q.values, values...)
	n := len(q.values) - len(values)
	for {
		before, after, found := strings.Cut(text, `?`)
		q.text.WriteString(before)
		if !found {
			return
		}
		n++
		q.text.WriteString(`$` + strconv.Itoa(n))
		text = after
	}
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
