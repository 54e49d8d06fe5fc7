package sqlite

import (
	"slices"
	"strings"
	"time"

	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/store/fold"
	"github.com/berthdev/berth/internal/store/record"
)

// tx is a fold.Serial: the transaction on the writing connection.
type tx struct {
	record.Reader
	s      *Store
	notes  []store.Note
	writes int
	err    error

	marked struct{ writes, notes int }
}

func (t *tx) Mark() { t.marked.writes, t.marked.notes = t.writes, len(t.notes) }

func (t *tx) Undo() bool {
	t.notes = t.notes[:t.marked.notes]
	return t.err == nil && t.writes == t.marked.writes
}

func (t *tx) Err() error { return t.err }

// Blocked: there is one lane.
func (t *tx) Blocked() *fold.Ticket { return nil }

func (t *tx) Close() {}

func (t *tx) Commit() ([]store.Note, error) {
	if t.writes == 0 {
		t.Rollback()
		return t.notes, nil
	}
	if _, err := t.s.write.exec("COMMIT"); err != nil {
		t.Rollback()
		return nil, err
	}
	t.s.memory.committed()
	t.s.boundLog()
	return t.notes, nil
}

func (t *tx) Rollback() {
	if t.writes > 0 {
		t.s.memory.rolledBack()
	} else {
		t.s.memory.committed()
	}
	// SQLite has rolled back by itself after some failures; then this fails.
	t.s.write.exec("ROLLBACK")
}

// exec runs a write. A broken rule leaves the transaction as it was before
// the statement; any other failure loses it.
func (t *tx) exec(sql string, values ...any) (int64, error) {
	n, err := t.s.write.exec(sql, values...)
	if err != nil {
		if !unique(err) && !foreign(err) && err != errNotStorable {
			t.err = err
		}
		return 0, err
	}
	t.writes++
	return n, nil
}

// insert is exec of an INSERT whose broken rules are the caller's doing.
func (t *tx) insert(taken string, sql string, values ...any) error {
	_, err := t.exec(sql, values...)
	switch {
	case err == nil:
		return nil
	case unique(err):
		return plane.Wrap(plane.Conflict, err, "%s", taken)
	case foreign(err):
		return plane.Wrap(plane.NotFound, err, "what this belongs to is gone")
	}
	return err
}

// update is exec of an UPDATE or DELETE of one row.
func (t *tx) update(what string, sql string, values ...any) error {
	n, err := t.exec(sql, values...)
	if err == nil && n == 0 {
		return plane.Errorf(plane.NotFound, "%s not found", what)
	}
	return err
}

func (t *tx) InsertKey(k plane.Key) error {
	return t.insert("a key with this id exists", `INSERT INTO keys (id, kind, environment_id, name, hash, created_at, last_used_at, revoked_at)
		VALUES (?, ?, nullif(?, ''), ?, ?, ?, ?, ?)`, record.KeyValues(k)...)
}

func (t *tx) UpdateKey(k plane.Key) error {
	return t.update("key", `UPDATE keys SET name = ?, last_used_at = ?, revoked_at = coalesce(revoked_at, ?) WHERE id = ?`, k.Name, k.LastUsedAt, k.RevokedAt, k.ID)
}

func (t *tx) InsertEnvironment(e plane.Environment) error {
	values, err := record.EnvironmentValues(e)
	if err != nil {
		return err
	}
	return t.insert("an environment with this name exists", `INSERT INTO environments (id, name, archived_at, body) VALUES (?, ?, ?, ?)`, values...)
}

func (t *tx) LockEnvironment(id string) (plane.Environment, error) { return t.Environment(id) }

func (t *tx) UpdateEnvironment(e plane.Environment) error {
	values, err := record.EnvironmentValues(e)
	if err != nil {
		return err
	}
	t.s.memory.environments.lose(e.ID)
	err = t.update("environment", `UPDATE environments SET name = ?, archived_at = ?, body = ? WHERE id = ?`, append(values[1:], e.ID)...)
	if unique(err) {
		return plane.Wrap(plane.Conflict, err, "an environment with this name exists")
	}
	return err
}

func (t *tx) DeleteEnvironment(id string) error {
	live, err := t.LiveSessions(id)
	if err != nil {
		return err
	}
	if live > 0 {
		return plane.Errorf(plane.Conflict, "the environment has %d sessions that are neither archived nor terminated", live)
	}
	for _, m := range t.s.memory.all() {
		m.loseAll()
	}
	clear(t.s.memory.pending)
	return t.update("environment", `DELETE FROM environments WHERE id = ?`, id)
}

func (t *tx) InsertAgentVersion(a plane.AgentVersion) error {
	values, err := record.AgentVersionValues(a)
	if err != nil {
		return err
	}
	if a.Version > 1 {
		if err := t.update("agent", `UPDATE agents SET latest = 0 WHERE id = ? AND latest = 1`, a.ID); err != nil {
			return err
		}
	}
	return t.insert("this version of the agent exists", `INSERT INTO agents (id, version, created_at, archived_at, body, latest)
		VALUES (?, ?, ?, ?, ?, 1)`, values...)
}

func (t *tx) LockAgent(id string) (plane.AgentVersion, error) { return t.Agent(id, 0) }

func (t *tx) UpdateAgent(a plane.AgentVersion) error {
	values, err := record.AgentVersionValues(a)
	if err != nil {
		return err
	}
	return t.update("agent", `UPDATE agents SET archived_at = ?, body = ? WHERE id = ? AND version = ?`, values[3], values[4], a.ID, a.Version)
}

func (t *tx) InsertSession(s plane.Session) error {
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
		last_input_at, agent_id, agent_version) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`, values...); err != nil {
		return err
	}
	if err := t.insert("a session with this id exists", `INSERT INTO session_profiles (session_id, profile) VALUES (?, ?)`, s.ID, profile); err != nil {
		return err
	}
	t.s.memory.sessions.keep(s.ID, append(columns(values[:len(record.SessionNames)]), profile))
	*t.s.memory.waiting(s.ID) = pending{noQueue: true, calls: true}
	return nil
}

func (t *tx) LockSession(id string) (plane.Session, error) { return t.Session(id) }

func (t *tx) UpdateSession(s plane.Session) error {
	v, err := record.SessionValues(&s)
	if err != nil {
		return err
	}
	m := t.s.memory.sessions
	old, err := t.row(m, "session", s.ID, record.SessionByID)
	if err != nil {
		return err
	}
	was, _ := old[len(record.SessionNames)].(string)
	profile, err := record.Profile(&s, was)
	if err != nil {
		return err
	}
	now, err := t.rewrite("sessions", "session", s.ID, old, record.SessionNames, v)
	if err != nil {
		return err
	}
	if was != profile {
		if err := t.update("session", `UPDATE session_profiles SET profile = ? WHERE session_id = ?`, profile, s.ID); err != nil {
			return err
		}
		now = append(slices.Clone(now[:len(record.SessionNames)]), profile)
	}
	m.keep(s.ID, now)
	return nil
}

func (t *tx) DeleteSession(id string) error {
	t.s.memory.sessions.lose(id)
	delete(t.s.memory.pending, id)
	return t.update("session", `DELETE FROM sessions WHERE id = ?`, id)
}

// insertEvents are statements for one event, two, and so on: a step of a turn
// appends a handful.
var insertEvents = func() (sql [8]string) {
	for i := range sql {
		sql[i] = `INSERT INTO events (` + record.EventColumns + `) VALUES (?, ?, ?, ?, ?, ?, ?)` + strings.Repeat(`, (?, ?, ?, ?, ?, ?, ?)`, i)
	}
	return sql
}()

func (t *tx) InsertEvents(events ...plane.StoredEvent) error {
	for _, e := range events {
		t.placed(e)
	}
	for some := range slices.Chunk(events, len(insertEvents)) {
		values := make([]any, 0, 7*len(some))
		for _, e := range some {
			values = append(values, record.EventValues(e)...)
		}
		if err := t.insert("an event with this id exists", insertEvents[len(some)-1], values...); err != nil {
			return err
		}
	}
	return nil
}

// placed notes an event that is about to be written.
func (t *tx) placed(e plane.StoredEvent) {
	if e.Pos == 0 {
		t.s.memory.waiting(e.SessionID).noQueue = false
	}
}

func (t *tx) UpdateEvent(e plane.StoredEvent) error {
	t.placed(e)
	return t.update("event", `UPDATE events SET pos = ?, emit = ?, processed_at = ?, body = ? WHERE session_id = ? AND id = ?`,
		e.Pos, e.Emit, e.ProcessedAt, string(e.Body), e.SessionID, e.ID)
}

func (t *tx) InsertCalls(calls ...plane.Call) error {
	for _, c := range calls {
		if err := t.insert("a call with this id exists", `INSERT INTO calls (`+record.CallColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			record.CallValues(c)...); err != nil {
			return err
		}
		t.s.memory.waiting(c.SessionID).asked(c)
	}
	return nil
}

func (t *tx) UpdateCall(c plane.Call) error {
	v := record.CallValues(c)
	if err := t.update("call", `UPDATE calls SET state = ?, answer_id = ?, answer_digest = ? WHERE session_id = ? AND id = ?`,
		v[4], v[7], v[8], c.SessionID, c.ID); err != nil {
		return err
	}
	t.s.memory.waiting(c.SessionID).settled(c)
	return nil
}

func (t *tx) InsertReplay(p plane.Replay) error {
	values, err := record.ReplayValues(p)
	if err != nil {
		return err
	}
	return t.insert("a replay at this place exists", `INSERT INTO replays (`+record.ReplayColumns+`) VALUES (?, ?, ?, ?, ?, ?)`, values...)
}

func (t *tx) InsertSend(s plane.Send) error {
	values, err := record.SendValues(s)
	if err != nil {
		return err
	}
	return t.insert("a send with this key exists", `INSERT INTO sends (`+record.SendColumns+`) VALUES (?, ?, ?, ?, ?)`, values...)
}

func (t *tx) PruneSends(session string, before time.Time) error {
	_, err := t.exec(`DELETE FROM sends WHERE session_id = ? AND at < ?`, session, before)
	return err
}

func (t *tx) InsertWork(w plane.WorkItem) error {
	values, err := record.WorkValues(&w)
	if err != nil {
		return err
	}
	if err := t.insert("the session has a live work item", `INSERT INTO work (`+record.WorkColumns+`)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`, values...); err != nil {
		return err
	}
	t.s.memory.keepWork(columns(values))
	return nil
}

func (t *tx) LockWork(id string) (plane.WorkItem, error) { return t.Work(id) }

func (t *tx) LockWorkCalls(id string) (plane.WorkItem, []plane.Call, error) {
	w, err := t.Work(id)
	if err != nil {
		return w, nil, err
	}
	open, err := t.OpenCalls(w.SessionID)
	return w, open, err
}

func (t *tx) UpdateWork(w plane.WorkItem) error {
	values, err := record.WorkValues(&w)
	if err != nil {
		return err
	}
	old := t.s.memory.work.rows[w.ID]
	if old == nil {
		if old, err = t.workRow(record.WorkByID, w.ID); err != nil {
			return err
		}
	}
	now, err := t.rewrite("work", "work item", w.ID, old, record.WorkNames, values)
	if unique(err) {
		return plane.Wrap(plane.Conflict, err, "the session has a live work item")
	}
	if err == nil {
		t.s.memory.keepWork(now)
	}
	return err
}

func (t *tx) ClaimWork(c store.Claim) (plane.WorkItem, error) {
	return t.keptWork(`SELECT `+record.WorkColumns+` FROM work
		WHERE environment_id = ? AND state = 'queued' AND (not_before IS NULL OR not_before <= ?)
			AND (delivered_at IS NULL OR delivered_at < ?)
			AND (prefer_worker = '' OR prefer_worker = ? OR prefer_until IS NULL OR prefer_until <= ?)
		ORDER BY has_input DESC, created_at, id LIMIT 1`, c.Environment, c.Now, c.ReclaimBefore, c.Worker, c.Now)
}

func (t *tx) SawWorker(environment, worker string, at time.Time) error {
	return t.insert("", `INSERT INTO workers (environment_id, worker, seen_at) VALUES (?, ?, ?)
		ON CONFLICT (environment_id, worker) DO UPDATE SET seen_at = max(seen_at, excluded.seen_at)`, environment, worker, at)
}

func (t *tx) PruneWork(stoppedBefore, seenBefore time.Time) error {
	if _, err := t.exec(`DELETE FROM work WHERE state = 'stopped' AND stopped_at < ?`, stoppedBefore); err != nil {
		return err
	}
	_, err := t.exec(`DELETE FROM workers WHERE seen_at < ?`, seenBefore)
	return err
}

func (t *tx) SetSetting(name, value string) error {
	return t.insert("", `INSERT INTO settings (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value`, name, value)
}

func (t *tx) Notify(n store.Note) {
	n.Local, n.Lost = true, false
	t.notes = append(t.notes, n)
}
