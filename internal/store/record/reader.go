package record

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
)

// Ask runs a query, in which a ? is the next value, and gives its rows one by
// one. There are none when a value is text that cannot be stored.
type Ask func(sql string, values []any, each func(Row) error) error

// Dialect is where the engines' SQL differs.
type Dialect struct {
	Latest string // whether a row of agents is the latest version
	Among  string // what follows a column that is in a JSON array of texts
}

// Reader is a store.Reader: both engines have the same tables.
type Reader struct {
	Dialect
	Ask Ask
}

// All reads every row of a query.
func All[T any](ask Ask, read func(Row) (T, error), sql string, values ...any) (out []T, err error) {
	err = ask(sql, values, func(r Row) error {
		v, err := read(r)
		out = append(out, v)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// One reads the one row that a query gives; NotFound when it gives none.
func One[T any](ask Ask, what string, read func(Row) (T, error), sql string, values ...any) (v T, err error) {
	all, err := All(ask, read, sql, values...)
	if err != nil {
		return v, err
	}
	if len(all) == 0 {
		return v, plane.Errorf(plane.NotFound, "%s not found", what)
	}
	return all[0], nil
}

const (
	KeyColumns     = `id, kind, coalesce(environment_id, ''), name, hash, created_at, last_used_at, revoked_at`
	SessionColumns = `s.id, s.environment_id, s.status, s.created_at, s.updated_at, s.archived_at, s.counts, s.thread_id, s.pos, s.emit,
		s.last_processed_at, s.turn, s.turn_owner, s.turn_fence, s.turn_until, s.turn_since, s.stop_reason, s.has_input, s.last_input_at, p.profile`
	SessionTables = ` FROM sessions s JOIN session_profiles p ON p.session_id = s.id `
	EventColumns  = `session_id, id, type, pos, emit, processed_at, body`
	CallColumns   = `session_id, id, kind, name, state, pos, request_id, answer_id, answer_digest`
	ReplayColumns = `session_id, request_id, pos, provider, content, call_ids`
	SendColumns   = `session_id, name, digest, event_ids, at`
	WorkColumns   = `id, environment_id, session_id, state, metadata, has_input, token_id, token_hash, created_at, not_before, prefer_worker,
		prefer_until, delivered_at, delivered_to, acked_at, acked_by_key, started_at, heartbeat_at, last_heartbeat, prev_expected, beat_by_token,
		ttl_seconds, lease_until, due_at, stop_requested_at, stopped_at, ended_by, superseded_by, streamed, tries, possibly_started`

	KeyByID         = `SELECT ` + KeyColumns + ` FROM keys WHERE id = ?`
	EnvironmentByID = `SELECT body FROM environments WHERE id = ?`
	SessionByID     = `SELECT ` + SessionColumns + SessionTables + `WHERE s.id = ?`
	WorkByID        = `SELECT ` + WorkColumns + ` FROM work WHERE id = ?`
	LiveWork        = `SELECT ` + WorkColumns + ` FROM work WHERE session_id = ? AND state <> 'stopped'`
	LastWork        = `SELECT ` + WorkColumns + ` FROM work WHERE id = coalesce(
		(SELECT id FROM work WHERE session_id = ? AND state <> 'stopped'), (SELECT id FROM work WHERE session_id = ? ORDER BY id DESC LIMIT 1))`
)

// Names of columns in the order of SessionValues and WorkValues, "" for those
// that never change.
var (
	SessionNames = []string{"", "", "status", "", "updated_at", "archived_at", "counts", "", "pos", "emit", "last_processed_at",
		"turn", "turn_owner", "turn_fence", "turn_until", "turn_since", "stop_reason", "has_input", "last_input_at"}
	WorkNames = []string{"", "", "", "state", "metadata", "has_input", "token_id", "token_hash", "", "not_before", "prefer_worker", "prefer_until",
		"delivered_at", "delivered_to", "acked_at", "acked_by_key", "started_at", "heartbeat_at", "last_heartbeat", "prev_expected", "beat_by_token",
		"ttl_seconds", "lease_until", "due_at", "stop_requested_at", "stopped_at", "ended_by", "superseded_by", "streamed", "tries", "possibly_started"}
)

func (r *Reader) Key(publicID string) (plane.Key, error) {
	return One(r.Ask, "key", Key, KeyByID, publicID)
}

func (r *Reader) Keys(environment string) ([]plane.Key, error) {
	q := where(`SELECT ` + KeyColumns + ` FROM keys`)
	if environment == "" {
		q.and(`environment_id IS NULL`)
	} else {
		q.and(`environment_id = ?`, environment)
	}
	q.tail(` ORDER BY created_at, id`)
	return All(r.Ask, Key, q.sql(), q.values...)
}

func (r *Reader) Environment(id string) (plane.Environment, error) {
	return One(r.Ask, "environment", Environment, EnvironmentByID, id)
}

func (r *Reader) EnvironmentNamed(name string) (plane.Environment, error) {
	return One(r.Ask, "environment", Environment, `SELECT body FROM environments WHERE name = ?`, name)
}

func (r *Reader) Environments(includeArchived bool, w store.Window) ([]plane.Environment, error) {
	q := where(`SELECT body FROM environments`)
	if !includeArchived {
		q.and(`archived_at IS NULL`)
	}
	q.window("id", w)
	return All(r.Ask, Environment, q.sql(), q.values...)
}

func (r *Reader) Agent(id string, version int) (plane.AgentVersion, error) {
	if version == 0 {
		return One(r.Ask, "agent", AgentVersion, `SELECT body FROM agents WHERE id = ? AND `+r.Latest, id)
	}
	return One(r.Ask, "agent version", AgentVersion, `SELECT body FROM agents WHERE id = ? AND version = ?`, id, version)
}

func (r *Reader) Agents(f store.AgentFilter, w store.Window) ([]plane.AgentVersion, error) {
	q := where(`SELECT body FROM agents`)
	q.and(r.Latest)
	if !f.IncludeArchived {
		q.and(`archived_at IS NULL`)
	}
	q.within("created_at", store.TimeRange{GTE: f.CreatedGTE, LTE: f.CreatedLTE})
	q.window("id", w)
	return All(r.Ask, AgentVersion, q.sql(), q.values...)
}

func (r *Reader) AgentVersions(id string, w store.Window) ([]plane.AgentVersion, error) {
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
	return All(r.Ask, AgentVersion, q.sql(), q.values...)
}

func (r *Reader) Session(id string) (plane.Session, error) {
	return One(r.Ask, "session", Session, SessionByID, id)
}

func (r *Reader) Sessions(f store.SessionFilter, w store.Window) ([]plane.Session, error) {
	q := where(`SELECT ` + SessionColumns + SessionTables)
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
		q.and(`s.status `+r.Among, jsonText(f.Statuses))
	}
	if !f.IncludeArchived {
		q.and(`s.archived_at IS NULL`)
	}
	q.within("s.created_at", f.Created)
	q.window("s.id", w)
	return All(r.Ask, Session, q.sql(), q.values...)
}

func (r *Reader) SessionsWanted(now time.Time, limit int) ([]string, error) {
	return All(r.Ask, ID, `SELECT id FROM sessions WHERE turn = 'wanted' AND (turn_until IS NULL OR turn_until <= ?)
		ORDER BY id LIMIT ?`, now, bound(limit))
}

func (r *Reader) LiveSessions(environment string) (int, error) {
	n, err := One(r.Ask, "count", Int, `SELECT count(*) FROM sessions
		WHERE environment_id = ? AND archived_at IS NULL AND status <> 'terminated'`, environment)
	return int(n), err
}

func (r *Reader) Event(session, id string) (plane.StoredEvent, error) {
	return One(r.Ask, "event", Event, `SELECT `+EventColumns+` FROM events WHERE session_id = ? AND id = ?`, session, id)
}

func (r *Reader) Events(session string, q store.EventQuery) (out []plane.StoredEvent, err error) {
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

// Placed are the events that have their place in the log.
func (r *Reader) Placed(session string, q store.EventQuery) ([]plane.StoredEvent, error) {
	return r.events(session, q, false, bound(q.Limit))
}

func (r *Reader) events(session string, q store.EventQuery, queued bool, limit int) ([]plane.StoredEvent, error) {
	w := where(`SELECT ` + EventColumns + ` FROM events`)
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
		w.and(`type `+r.Among, jsonText(q.Types))
	}
	w.within("processed_at", q.Processed)
	if queued {
		w.tail(` ORDER BY id`+direction+` LIMIT ?`, limit)
	} else {
		w.tail(` ORDER BY pos`+direction+` LIMIT ?`, limit)
	}
	return All(r.Ask, Event, w.sql(), w.values...)
}

// Frames needs an index for queued rows only: rows with a place have theirs in the
// order of their places, and the session's emit and pos differ by no less than
// those of any of them.
func (r *Reader) Frames(session string, after int64, limit int) ([]plane.StoredEvent, error) {
	n := bound(limit)
	return All(r.Ask, Event, `SELECT * FROM (SELECT `+EventColumns+` FROM events
			WHERE session_id = ? AND pos > 0 AND pos > ? - (SELECT emit - pos FROM sessions WHERE id = ?) AND emit > ? ORDER BY pos LIMIT ?) AS placed
		UNION ALL
		SELECT * FROM (SELECT `+EventColumns+` FROM events WHERE session_id = ? AND pos = 0 AND emit > ? ORDER BY emit LIMIT ?) AS queued
		ORDER BY emit LIMIT ?`, session, after, session, after, n, session, after, n, n)
}

func (r *Reader) Call(session, id string) (plane.Call, error) {
	return One(r.Ask, "call", Call, `SELECT `+CallColumns+` FROM calls WHERE session_id = ? AND id = ?`, session, id)
}

func (r *Reader) OpenCalls(session string) ([]plane.Call, error) {
	return All(r.Ask, Call, `SELECT `+CallColumns+` FROM calls WHERE session_id = ? AND state IN ('asked', 'open') ORDER BY pos`, session)
}

func (r *Reader) Calls(session string) ([]plane.Call, error) {
	return All(r.Ask, Call, `SELECT `+CallColumns+` FROM calls WHERE session_id = ? ORDER BY pos`, session)
}

func (r *Reader) Replays(session string, after int64) ([]plane.Replay, error) {
	return All(r.Ask, Replay, `SELECT `+ReplayColumns+` FROM replays WHERE session_id = ? AND pos > ? ORDER BY pos`, session, after)
}

func (r *Reader) Send(session, key string) (plane.Send, error) {
	return One(r.Ask, "send", Send, `SELECT `+SendColumns+` FROM sends WHERE session_id = ? AND name = ?`, session, key)
}

func (r *Reader) Work(id string) (plane.WorkItem, error) {
	return One(r.Ask, "work item", Work, WorkByID, id)
}

func (r *Reader) WorkByToken(publicID string) (plane.WorkItem, error) {
	return One(r.Ask, "work item", Work, `SELECT `+WorkColumns+` FROM work WHERE token_id = ? AND token_id <> ''`, publicID)
}

func (r *Reader) LiveWork(session string) (plane.WorkItem, error) {
	return One(r.Ask, "work item", Work, LiveWork, session)
}

func (r *Reader) LastWork(session string) (plane.WorkItem, error) {
	return One(r.Ask, "work item", Work, LastWork, session, session)
}

func (r *Reader) WorkItems(environment string, w store.Window) ([]plane.WorkItem, error) {
	q := where(`SELECT ` + WorkColumns + ` FROM work`)
	q.and(`environment_id = ?`, environment)
	q.window("id", w)
	return All(r.Ask, Work, q.sql(), q.values...)
}

func (r *Reader) NextOffer(environment string, now time.Time) (time.Time, error) {
	return One(r.Ask, "time", Time, `SELECT min(at) FROM (
		SELECT min(not_before) AS at FROM work
			WHERE environment_id = ? AND state = 'queued' AND not_before > ? AND delivered_at IS NULL
		UNION ALL
		SELECT min(prefer_until) FROM work
			WHERE environment_id = ? AND state = 'queued' AND prefer_until > ? AND prefer_worker <> '' AND delivered_at IS NULL) AS times`,
		environment, now, environment, now)
}

func (r *Reader) WorkDue(now time.Time, limit int) ([]plane.WorkItem, error) {
	return All(r.Ask, Work, `SELECT `+WorkColumns+` FROM work WHERE due_at <= ? ORDER BY due_at, id LIMIT ?`, now, bound(limit))
}

func (r *Reader) NextDue() (time.Time, error) {
	return One(r.Ask, "time", Time, `SELECT min(due_at) FROM work WHERE due_at IS NOT NULL`)
}

func (r *Reader) WorkStats(environment string, now time.Time) (store.WorkStats, error) {
	return One(r.Ask, "stats", func(row Row) (store.WorkStats, error) {
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

func (r *Reader) Setting(name string) (string, error) {
	v, err := One(r.Ask, "setting", ID, `SELECT value FROM settings WHERE name = ?`, name)
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
