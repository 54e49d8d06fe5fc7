package postgres

import (
	"cmp"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/store/fold"
	"github.com/berthdev/berth/internal/store/record"
)

// tx is a fold.Attempt. What is written waits here and goes out with the next
// question, or with the commit: a transition costs as many round trips as it
// asks questions.
type tx struct {
	record.Reader
	c        *conn
	self     string // of notes
	begun    bool
	waiting  []call
	asking   []call            // locks that go out with the next question
	sent     int               // writes that left
	profiles map[string]string // of sessions read here, as they are stored
	notes    []store.Note
	saw      []sight
	err      error

	alone   bool       // one transition, as opposed to a group
	hold    *fold.Hold // of rows this writes or locks
	blocked *fold.Ticket

	marked struct{ writes, notes, saw int }
}

// sight is a worker that polled.
type sight struct {
	EnvironmentID string    `json:"environment_id"`
	Worker        string    `json:"worker"`
	SeenAt        time.Time `json:"seen_at"`
}

func newTx(c *conn, self string, hold *fold.Hold, alone bool) *tx {
	t := &tx{c: c, self: self, hold: hold, alone: alone}
	t.Reader = reader(t.ask)
	return t
}

func (t *tx) Mark() {
	t.marked.writes, t.marked.notes, t.marked.saw = t.sent+len(t.waiting), len(t.notes), len(t.saw)
	t.blocked = nil
}

func (t *tx) Undo() bool {
	t.notes, t.saw = t.notes[:t.marked.notes], t.saw[:min(t.marked.saw, len(t.saw))]
	if t.err != nil || t.sent > t.marked.writes {
		return false
	}
	t.waiting = t.waiting[:t.marked.writes-t.sent]
	t.profiles = nil
	return true
}

func (t *tx) Err() error { return t.err }

func (t *tx) Blocked() *fold.Ticket { return t.blocked }

func (t *tx) Close() { t.hold.End() }

// lock reads and locks one row. In a group that may hold something it does not
// wait: a row that another process has is Busy.
func lock[T any](t *tx, what string, read func(record.Row) (T, error), sql string, id string) (v T, err error) {
	how, missed := t.locking()
	v, err = record.One(t.Ask, what, read, sql+how, id)
	return v, missed(err)
}

// locking is how a question locks the row it asks for, and what its failure
// means.
func (t *tx) locking() (how string, missed func(error) error) {
	if t.alone || !t.begun && len(t.waiting) == 0 {
		return ` FOR NO KEY UPDATE`, func(err error) error { return err }
	}
	return ` FOR NO KEY UPDATE SKIP LOCKED`, func(err error) error {
		if plane.KindOf(err) == plane.NotFound {
			// Or there is none; alone it will be seen.
			t.blocked = fold.Busy
		}
		return err
	}
}

// errElsewhere ends a transition that is put off. Nobody hears it.
var errElsewhere = plane.Errorf(plane.Unavailable, "another transition has this row")

// take claims a row for this attempt among the lanes of this process.
func (t *tx) take(kind, id string) error {
	if t.blocked == nil {
		t.blocked = t.hold.Take(kind + id)
	}
	if t.blocked != nil {
		return errElsewhere
	}
	return nil
}

// flush sends what waits, and last in one round trip.
func (t *tx) flush(last call) error {
	if t.err != nil {
		return t.err
	}
	calls := make([]call, 0, len(t.waiting)+len(t.asking)+2)
	if !t.begun {
		begin, err := t.c.call("BEGIN", nil)
		if err != nil {
			t.err = err
			return err
		}
		calls = append(calls, begin)
		t.begun = true
	}
	calls = append(append(append(calls, t.waiting...), t.asking...), last)
	t.sent += len(t.waiting)
	t.waiting, t.asking = t.waiting[:0], nil
	if err := t.c.send(calls...); err != nil {
		t.err = err
		return err
	}
	return nil
}

func (t *tx) ask(sql string, values []any, read func(*pgconn.ResultReader) error) error {
	k, err := t.call(sql, values)
	if err != nil {
		return err
	}
	k.read = read
	return t.flush(k)
}

// call is conn.call; all it can fail with but one loses the transaction.
func (t *tx) call(sql string, values []any) (call, error) {
	if t.err != nil {
		return call{}, t.err
	}
	k, err := t.c.call(sql, values)
	if err != nil && err != errNotStorable {
		t.err = err
	}
	return k, err
}

// write queues a statement.
func (t *tx) write(check func(error) error, sql string, values ...any) error {
	k, err := t.call(sql, values)
	if err != nil {
		return err
	}
	k.check = check
	t.waiting = append(t.waiting, k)
	return nil
}

// insert queues an INSERT whose broken rules are the caller's doing.
func (t *tx) insert(taken string, sql string, values ...any) error {
	return t.write(func(err error) error { return broken(err, taken) }, sql, values...)
}

// update queues an UPDATE or DELETE of one row.
func (t *tx) update(what string, sql string, values ...any) error {
	return t.rewrite(what, "", sql, values...)
}

// rewrite is update of a row whose new values may break a rule.
func (t *tx) rewrite(what, taken string, sql string, values ...any) error {
	err := t.write(func(err error) error {
		if err == nil {
			return plane.Errorf(plane.NotFound, "%s not found", what)
		}
		return broken(err, taken)
	}, sql, values...)
	if err == nil {
		t.waiting[len(t.waiting)-1].counts = true
	}
	return err
}

func broken(err error, taken string) error {
	switch sqlState(err) {
	case stateUnique:
		return plane.Wrap(plane.Conflict, err, "%s", taken)
	case stateForeign:
		return plane.Wrap(plane.NotFound, err, "what this belongs to is gone")
	}
	return err
}

func (t *tx) Commit() ([]store.Note, error) {
	if t.sent == 0 && len(t.waiting) == 0 && len(t.notes) == 0 && len(t.saw) == 0 {
		t.Rollback()
		return nil, nil
	}
	if err := t.writeSights(); err != nil {
		t.Rollback()
		return nil, err
	}
	if said := payloads(t.self, t.notes); len(said) > 0 {
		list, err := json.Marshal(said)
		if err == nil {
			err = t.write(nil, `SELECT pg_notify('`+channel+`', said) FROM json_array_elements_text($1::json) AS said`, string(list))
		}
		if err != nil {
			t.Rollback()
			return nil, err
		}
	}
	// Whether a row was there must be known before the commit leaves.
	if slices.ContainsFunc(t.waiting, func(k call) bool { return k.counts }) {
		last := t.waiting[len(t.waiting)-1]
		t.waiting = t.waiting[:len(t.waiting)-1]
		if err := t.flush(last); err != nil {
			t.Rollback()
			return nil, err
		}
	}
	commit, err := t.c.call("COMMIT", nil)
	if err == nil {
		err = t.flush(commit)
	}
	if err == nil {
		return t.notes, nil
	}
	if t.c.usable() {
		t.Rollback()
		return nil, err
	}
	return nil, &fold.Unsure{Err: err}
}

func (t *tx) Rollback() {
	if !t.begun || !t.c.usable() {
		return
	}
	k, err := t.c.call("ROLLBACK", nil)
	if err == nil {
		err = t.c.send(k)
	}
	if err != nil {
		// Whatever state it is in, nothing of it stays.
		t.c.close()
	}
}

// channel is where replicas tell each other what was committed.
const channel = "berth"

// payloads are the notes as other processes hear them: who says it, and ids
// only.
func payloads(self string, notes []store.Note) (said []string) {
	for _, n := range notes {
		switch {
		case n.Deleted:
			said = append(said, self+" d "+n.Session)
		case n.Taken:
			said = append(said, self+" t "+n.Session)
		case n.Session != "":
			s := self + " s " + n.Session + " " + strconv.FormatInt(n.Emit, 10)
			if n.Turn {
				s += " t"
			}
			said = append(said, s)
		}
		if n.Environment != "" {
			said = append(said, self+" q "+n.Environment)
		}
	}
	return said
}

func (t *tx) InsertKey(k plane.Key) error {
	return t.insert("a key with this id exists", `INSERT INTO keys (id, kind, environment_id, name, hash, created_at, last_used_at, revoked_at)
		VALUES ($1, $2, nullif($3, ''), $4, $5, $6, $7, $8)`, record.KeyValues(k)...)
}

func (t *tx) UpdateKey(k plane.Key) error {
	if err := t.take("key ", k.ID); err != nil {
		return err
	}
	return t.update("key", `UPDATE keys SET name = $1, last_used_at = $2, revoked_at = coalesce(revoked_at, $3) WHERE id = $4`, k.Name, k.LastUsedAt, k.RevokedAt, k.ID)
}

func (t *tx) InsertEnvironment(e plane.Environment) error {
	values, err := record.EnvironmentValues(e)
	if err != nil {
		return err
	}
	return t.insert("an environment with this name exists", `INSERT INTO environments (id, name, archived_at, body) VALUES ($1, $2, $3, $4)`, values...)
}

func (t *tx) LockEnvironment(id string) (plane.Environment, error) {
	if err := t.take("environment ", id); err != nil {
		return plane.Environment{}, err
	}
	return lock(t, "environment", record.Environment, `SELECT body FROM environments WHERE id = $1`, id)
}

func (t *tx) UpdateEnvironment(e plane.Environment) error {
	if err := t.take("environment ", e.ID); err != nil {
		return err
	}
	values, err := record.EnvironmentValues(e)
	if err != nil {
		return err
	}
	return t.rewrite("environment", "an environment with this name exists", `UPDATE environments SET name = $1, archived_at = $2, body = $3 WHERE id = $4`, append(values[1:], e.ID)...)
}

// DeleteEnvironment waits for those who add to the environment now, so that
// their sessions are counted; only alone may it wait.
func (t *tx) DeleteEnvironment(id string) error {
	if err := t.take("environment ", id); err != nil {
		return err
	}
	if !t.alone {
		t.blocked = fold.Busy
		return errElsewhere
	}
	if _, err := record.One(t.Ask, "environment", record.ID, `SELECT id FROM environments WHERE id = $1 FOR UPDATE`, id); err != nil {
		return err
	}
	live, err := t.LiveSessions(id)
	if err != nil {
		return err
	}
	if live > 0 {
		return plane.Errorf(plane.Conflict, "the environment has %d sessions that are neither archived nor terminated", live)
	}
	return t.update("environment", `DELETE FROM environments WHERE id = $1`, id)
}

func (t *tx) InsertAgentVersion(a plane.AgentVersion) error {
	if err := t.take("agent ", a.ID); err != nil {
		return err
	}
	values, err := record.AgentVersionValues(a)
	if err != nil {
		return err
	}
	if a.Version > 1 {
		if err := t.update("agent", `UPDATE agents SET latest = false WHERE id = $1 AND latest`, a.ID); err != nil {
			return err
		}
	}
	return t.insert("this version of the agent exists", `INSERT INTO agents (id, version, created_at, archived_at, body, latest)
		VALUES ($1, $2, $3, $4, $5, true)`, values...)
}

// LockAgent locks the first version, for the latest one changes.
func (t *tx) LockAgent(id string) (plane.AgentVersion, error) {
	if err := t.take("agent ", id); err != nil {
		return plane.AgentVersion{}, err
	}
	if _, err := lock(t, "agent", record.ID, `SELECT id FROM agents WHERE id = $1 AND version = 1`, id); err != nil {
		return plane.AgentVersion{}, err
	}
	return t.Agent(id, 0)
}

func (t *tx) UpdateAgent(a plane.AgentVersion) error {
	if err := t.take("agent ", a.ID); err != nil {
		return err
	}
	values, err := record.AgentVersionValues(a)
	if err != nil {
		return err
	}
	return t.update("agent", `UPDATE agents SET archived_at = $1, body = $2 WHERE id = $3 AND version = $4`, values[3], values[4], a.ID, a.Version)
}

func (t *tx) InsertSession(s plane.Session) error {
	if err := t.take("session ", s.ID); err != nil {
		return err
	}
	values, err := record.SessionValues(&s)
	if err != nil {
		return err
	}
	profile, err := record.Profile(&s, "")
	if err != nil {
		return err
	}
	if err := t.insert("a session with this id exists", `INSERT INTO sessions (id, environment_id, status, created_at, updated_at, archived_at,
		counts, thread_id, pos, emit, last_processed_at, turn, turn_owner, turn_fence, turn_until, turn_since, stop_reason, has_input,
		last_input_at, agent_id, agent_version) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21)`, values...); err != nil {
		return err
	}
	t.remember(s.ID, profile)
	return t.insert("a session with this id exists", `INSERT INTO session_profiles (session_id, profile) VALUES ($1, $2)`, s.ID, profile)
}

func (t *tx) LockSession(id string) (plane.Session, error) {
	if err := t.take("session ", id); err != nil {
		return plane.Session{}, err
	}
	type stored struct {
		s       plane.Session
		profile string
	}
	v, err := lock(t, "session", func(r record.Row) (v stored, err error) {
		v.s, v.profile, err = record.SessionAndProfile(r)
		return v, err
	}, `SELECT `+record.SessionColumns+record.SessionTables+`WHERE s.id = $1`, id)
	if err == nil {
		t.remember(id, v.profile)
	}
	return v.s, err
}

func (t *tx) remember(session, profile string) {
	if t.profiles == nil {
		t.profiles = make(map[string]string)
	}
	t.profiles[session] = profile
}

func (t *tx) UpdateSession(s plane.Session) error {
	if err := t.take("session ", s.ID); err != nil {
		return err
	}
	v, err := record.SessionValues(&s)
	if err != nil {
		return err
	}
	profile, err := record.Profile(&s, t.profiles[s.ID])
	if err != nil {
		return err
	}
	if err := t.update("session", `UPDATE sessions SET status = $1, updated_at = $2, archived_at = $3, counts = $4, pos = $5, emit = $6,
		last_processed_at = $7, turn = $8, turn_owner = $9, turn_fence = $10, turn_until = $11, turn_since = $12, stop_reason = $13, has_input = $14,
		last_input_at = $15 WHERE id = $16`,
		v[2], v[4], v[5], v[6], v[8], v[9], v[10], v[11], v[12], v[13], v[14], v[15], v[16], v[17], v[18], s.ID); err != nil {
		return err
	}
	if was, known := t.profiles[s.ID]; known && was == profile {
		return nil
	}
	t.remember(s.ID, profile)
	return t.update("session", `UPDATE session_profiles SET profile = $1 WHERE session_id = $2`, profile, s.ID)
}

func (t *tx) DeleteSession(id string) error {
	if err := t.take("session ", id); err != nil {
		return err
	}
	delete(t.profiles, id)
	return t.update("session", `DELETE FROM sessions WHERE id = $1`, id)
}

func (t *tx) InsertEvents(events ...plane.StoredEvent) error {
	for _, e := range events {
		if err := t.insert("an event with this id exists", `INSERT INTO events (`+record.EventColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
			record.EventValues(e)...); err != nil {
			return err
		}
	}
	return nil
}

func (t *tx) UpdateEvent(e plane.StoredEvent) error {
	return t.update("event", `UPDATE events SET pos = $1, emit = $2, processed_at = $3, body = $4 WHERE session_id = $5 AND id = $6`,
		e.Pos, e.Emit, e.ProcessedAt, string(e.Body), e.SessionID, e.ID)
}

func (t *tx) InsertCalls(calls ...plane.Call) error {
	for _, c := range calls {
		if err := t.insert("a call with this id exists", `INSERT INTO calls (`+record.CallColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
			record.CallValues(c)...); err != nil {
			return err
		}
	}
	return nil
}

func (t *tx) UpdateCall(c plane.Call) error {
	v := record.CallValues(c)
	return t.update("call", `UPDATE calls SET state = $1, answer_id = $2, answer_digest = $3 WHERE session_id = $4 AND id = $5`,
		v[4], v[7], v[8], c.SessionID, c.ID)
}

func (t *tx) InsertReplay(p plane.Replay) error {
	values, err := record.ReplayValues(p)
	if err != nil {
		return err
	}
	return t.insert("a replay at this place exists", `INSERT INTO replays (`+record.ReplayColumns+`) VALUES ($1, $2, $3, $4, $5, $6)`, values...)
}

func (t *tx) InsertSend(s plane.Send) error {
	values, err := record.SendValues(s)
	if err != nil {
		return err
	}
	return t.insert("a send with this key exists", `INSERT INTO sends (`+record.SendColumns+`) VALUES ($1, $2, $3, $4, $5)`, values...)
}

func (t *tx) PruneSends(session string, before time.Time) error {
	return t.write(nil, `DELETE FROM sends WHERE session_id = $1 AND at < $2`, session, before)
}

func (t *tx) InsertWork(w plane.WorkItem) error {
	values, err := record.WorkValues(&w)
	if err != nil {
		return err
	}
	return t.insert("the session has a live work item", `INSERT INTO work (`+record.WorkColumns+`)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26, $27, $28, $29, $30, $31)`, values...)
}

func (t *tx) LockWork(id string) (plane.WorkItem, error) {
	if err := t.take("work ", id); err != nil {
		return plane.WorkItem{}, err
	}
	return lock(t, "work item", record.Work, `SELECT `+record.WorkColumns+` FROM work WHERE id = $1`, id)
}

// LockWorkCalls asks both in one round trip; the second question is answered
// once the first has its lock.
func (t *tx) LockWorkCalls(id string) (w plane.WorkItem, open []plane.Call, err error) {
	if err := t.take("work ", id); err != nil {
		return w, nil, err
	}
	how, missed := t.locking()
	k, err := t.call(record.WorkByID+how, []any{id})
	if errors.Is(err, errNotStorable) { // so it is not stored
		err = plane.Errorf(plane.NotFound, "work item not found")
	}
	if err != nil {
		return w, nil, err
	}
	found := false
	k.read = rows(func(r record.Row) (err error) {
		w, err = record.Work(r)
		found = true
		return err
	})
	t.asking = append(t.asking, k)
	open, err = record.All(t.Ask, record.Call, `SELECT `+record.CallColumns+` FROM calls
		WHERE session_id = (SELECT session_id FROM work WHERE id = ?) AND state IN ('asked', 'open') ORDER BY pos`, id)
	if err == nil && !found {
		err = missed(plane.Errorf(plane.NotFound, "work item not found"))
	}
	return w, open, err
}

func (t *tx) UpdateWork(w plane.WorkItem) error {
	if err := t.take("work ", w.ID); err != nil {
		return err
	}
	v, err := record.WorkValues(&w)
	if err != nil {
		return err
	}
	values := append(append(v[3:8:8], v[9:]...), w.ID)
	return t.rewrite("work item", "the session has a live work item", `UPDATE work SET state = $1, metadata = $2, has_input = $3, token_id = $4, token_hash = $5,
		not_before = $6, prefer_worker = $7, prefer_until = $8, delivered_at = $9, delivered_to = $10, acked_at = $11, acked_by_key = $12, started_at = $13,
		heartbeat_at = $14, last_heartbeat = $15, prev_expected = $16, beat_by_token = $17, ttl_seconds = $18, lease_until = $19, due_at = $20,
		stop_requested_at = $21, stopped_at = $22, ended_by = $23, superseded_by = $24, streamed = $25, tries = $26, possibly_started = $27
		WHERE id = $28`, values...)
}

func (t *tx) ClaimWork(c store.Claim) (plane.WorkItem, error) {
	w, err := record.One(t.Ask, "work item", record.Work, `SELECT `+record.WorkColumns+` FROM work
		WHERE environment_id = $1 AND state = 'queued' AND (not_before IS NULL OR not_before <= $2)
			AND (delivered_at IS NULL OR delivered_at < $3)
			AND (prefer_worker = '' OR prefer_worker = $4 OR prefer_until IS NULL OR prefer_until <= $5)
		ORDER BY has_input DESC, created_at, id LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED`, c.Environment, c.Now, c.ReclaimBefore, c.Worker, c.Now)
	if err != nil {
		return w, err
	}
	return w, t.take("work ", w.ID)
}

// SawWorker waits for the commit: the sights of a group are one statement,
// and in one order, so that lanes and processes do not cross.
func (t *tx) SawWorker(environment, worker string, at time.Time) error {
	if !record.Storable(worker) {
		return errNotStorable
	}
	t.saw = append(t.saw, sight{environment, worker, at.UTC().Truncate(time.Microsecond)})
	return nil
}

func (t *tx) writeSights() error {
	if len(t.saw) == 0 {
		return nil
	}
	slices.SortFunc(t.saw, func(a, b sight) int {
		return cmp.Or(strings.Compare(a.EnvironmentID, b.EnvironmentID), strings.Compare(a.Worker, b.Worker), b.SeenAt.Compare(a.SeenAt))
	})
	latest := slices.CompactFunc(t.saw, func(a, b sight) bool { return a.EnvironmentID == b.EnvironmentID && a.Worker == b.Worker })
	text, err := json.Marshal(latest)
	if err != nil {
		return err
	}
	t.saw = nil
	return t.insert("", `INSERT INTO workers (environment_id, worker, seen_at)
		SELECT environment_id, worker, seen_at
		FROM json_to_recordset($1::json) AS sights (environment_id text, worker text, seen_at timestamptz)
		ON CONFLICT (environment_id, worker) DO UPDATE SET seen_at = greatest(workers.seen_at, excluded.seen_at)`, string(text))
}

func (t *tx) WorkStats(environment string, now time.Time) (store.WorkStats, error) {
	if err := t.writeSights(); err != nil {
		return store.WorkStats{}, err
	}
	return t.Reader.WorkStats(environment, now)
}

func (t *tx) PruneWork(stoppedBefore time.Time) error {
	if err := t.write(nil, `DELETE FROM work WHERE state = 'stopped' AND stopped_at < $1`, stoppedBefore); err != nil {
		return err
	}
	return t.write(nil, `DELETE FROM workers WHERE seen_at < $1`, stoppedBefore)
}

func (t *tx) SetSetting(name, value string) error {
	if err := t.take("setting ", name); err != nil {
		return err
	}
	return t.insert("", `INSERT INTO settings (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value`, name, value)
}

func (t *tx) Notify(n store.Note) {
	n.Local, n.Lost = true, false
	t.notes = append(t.notes, n)
}
