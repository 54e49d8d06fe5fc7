package postgres

import (
	"encoding/json"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/store/fold"
	"github.com/berthdev/berth/internal/store/record"
)

// attempt is a fold.Joint. It is the tx of a transition alone, and of a group
// it holds what parts that are over wrote.
type attempt struct{ tx }

// tx is a transition's store.Tx. What is written waits here and goes out with
// the next question, or with the commit.
type tx struct {
	record.Reader
	*shared
	part
	waiting   []call
	questions []call // that go out next, in one round trip
	notes     []store.Note
	saw       []sight
	blocked   *fold.Ticket
}

// shared is what the transitions of an attempt share.
type shared struct {
	c     *conn
	self  string // of notes
	begun bool
	sent  int // writes that left
	known known
	err   error

	alone bool       // one transition, as opposed to a group
	hold  *fold.Hold // of rows this writes or locks

	whole  *tx            // the attempt's own
	asking []*tx          // parts that wait for an answer
	claims []*claims      // among what they ask
	round  int            // how often they were answered
	owner  map[string]*tx // the last part that had a row
}

func newAttempt(c *conn, self string, hold *fold.Hold, alone bool) *attempt {
	a := &attempt{tx{shared: &shared{c: c, self: self, hold: hold, alone: alone}}}
	a.whole = &a.tx
	a.Reader = reader(a.tx.ask)
	return a
}

func (a *attempt) Err() error { return a.err }

func (a *attempt) Close() { a.hold.End() }

func (t *tx) Blocked() *fold.Ticket { return t.blocked }

// lock reads and locks one row. In a group, which may hold something, it does
// not wait: a row that another process has is Busy.
func lock[T any](t *tx, what string, read func(record.Row) (T, error), sql string, id string) (v T, err error) {
	how, missed := t.locking()
	v, err = record.One(t.Ask, what, read, sql+how, id)
	return v, missed(err)
}

// locking is how a question locks the row it asks for, and what its failure
// means.
func (t *tx) locking() (how string, missed func(error) error) {
	if t.alone {
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

// take claims a row for this transition, among the lanes of this process and
// the parts of its group.
func (t *tx) take(kind, id string) error {
	key := kind + id
	for t.wait != nil && t.blocked == nil {
		other := t.owner[key]
		if other == nil || other == t || other.over {
			break
		}
		t.after, t.ready = other, false
		t.wait()
		if t.err != nil {
			return t.err
		}
	}
	if t.blocked == nil {
		t.blocked = t.hold.Take(key)
	}
	if t.blocked != nil {
		return errElsewhere
	}
	if t.wait != nil {
		t.owner[key] = t
	}
	return nil
}

// flush sends what waits, and last in one round trip; a part's with those of
// the others.
func (t *tx) flush(last call) error {
	if t.err != nil {
		return t.err
	}
	t.questions = append(t.questions, last)
	return t.asks()
}

// asks returns when the questions are answered.
func (t *tx) asks() error {
	if t.wait == nil {
		t.send([]*tx{t})
		return t.err
	}
	t.asking, t.ready, t.after = append(t.asking, t), false, nil
	t.wait()
	return t.err
}

// send sends what each of them has waiting, and their questions.
func (a *shared) send(all []*tx) {
	var calls []call
	if !a.begun {
		begin, err := a.c.call("BEGIN", nil)
		if err != nil {
			a.err = err
			return
		}
		calls = append(calls, begin)
		a.begun = true
	}
	for _, t := range all {
		calls = append(append(calls, t.waiting...), t.questions...)
		a.sent += len(t.waiting)
		t.wrote = t.wrote || len(t.waiting) > 0
		t.waiting, t.questions = t.waiting[:0], nil
	}
	a.err = a.c.send(calls...)
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
	encoded, err := encode(values)
	if err != nil {
		if err != errNotStorable && t.err == nil {
			t.err = err
		}
		return call{}, err
	}
	return t.encoded(sql, encoded)
}

func (t *tx) encoded(sql string, values [][]byte) (call, error) {
	if t.err != nil {
		return call{}, t.err
	}
	k, err := t.c.encoded(sql, values)
	t.err = err
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
func (t *tx) update(what, taken string, sql string, values ...any) error {
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

func (t *attempt) Commit() ([]store.Note, error) {
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
	if err != nil {
		t.Rollback()
		return nil, err
	}
	err = t.flush(commit)
	switch {
	case err == nil:
		return t.notes, nil
	// The server has refused it, or given the transaction up before it came,
	// or it never left.
	case t.c.usable(), sqlState(err) == stateIdleInTx, pgconn.SafeToRetry(err):
		t.Rollback()
		return nil, err
	}
	return nil, &fold.Unsure{Err: err}
}

func (t *attempt) Rollback() {
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
// only. Of equal ones PostgreSQL passes on one a commit: how many offers more an
// environment has is said at the end.
func payloads(self string, notes []store.Note) (said []string) {
	more := make(map[string]int)
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
		if n.Environment == "" {
			continue
		}
		offer := self + " q " + n.Environment
		if _, again := more[offer]; again {
			more[offer]++
			continue
		}
		more[offer] = 0
		said = append(said, offer)
	}
	for offer, n := range more {
		if n > 0 {
			said = append(said, offer+" "+strconv.Itoa(n))
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
	return t.update("key", "", `UPDATE keys SET name = $1, last_used_at = $2, revoked_at = coalesce(revoked_at, $3) WHERE id = $4`, k.Name, k.LastUsedAt, k.RevokedAt, k.ID)
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
	return t.update("environment", "an environment with this name exists", `UPDATE environments SET name = $1, archived_at = $2, body = $3 WHERE id = $4`, append(values[1:], e.ID)...)
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
	return t.update("environment", "", `DELETE FROM environments WHERE id = $1`, id)
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
		if err := t.update("agent", "", `UPDATE agents SET latest = false WHERE id = $1 AND latest`, a.ID); err != nil {
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
	return t.update("agent", "", `UPDATE agents SET archived_at = $1, body = $2 WHERE id = $3 AND version = $4`, values[3], values[4], a.ID, a.Version)
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
	if err := t.insert("a session with this id exists", `INSERT INTO session_profiles (session_id, profile) VALUES ($1, $2)`, s.ID, profile); err != nil {
		return err
	}
	row, err := encode(append(values[:len(record.SessionNames):len(record.SessionNames)], profile))
	if err == nil {
		t.keep("session ", row)
	}
	return err
}

func (t *tx) LockSession(id string) (plane.Session, error) {
	if err := t.take("session ", id); err != nil {
		return plane.Session{}, err
	}
	return lock(t, "session", keeping(t, "session ", record.Session), `SELECT `+record.SessionColumns+record.SessionTables+`WHERE s.id = $1`, id)
}

func (t *tx) UpdateSession(s plane.Session) error {
	if err := t.take("session ", s.ID); err != nil {
		return err
	}
	values, err := record.SessionValues(&s)
	if err != nil {
		return err
	}
	row, last, was := t.known["session "+s.ID], len(record.SessionNames), ""
	if row != nil {
		was = string(row[last])
	}
	profile, err := record.Profile(&s, was)
	if err != nil {
		return err
	}
	if err := t.rewrite("session ", "sessions", "", record.SessionNames, values); err != nil {
		return err
	}
	if row != nil {
		if profile == was {
			return nil
		}
		row[last] = []byte(profile)
	}
	return t.update("session", "", `UPDATE session_profiles SET profile = $1 WHERE session_id = $2`, profile, s.ID)
}

func (t *tx) DeleteSession(id string) error {
	if err := t.take("session ", id); err != nil {
		return err
	}
	delete(t.known, "session "+id)
	return t.update("session", "", `DELETE FROM sessions WHERE id = $1`, id)
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
	return t.update("event", "", `UPDATE events SET pos = $1, emit = $2, processed_at = $3, body = $4 WHERE session_id = $5 AND id = $6`,
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
	return t.update("call", "", `UPDATE calls SET state = $1, answer_id = $2, answer_digest = $3 WHERE session_id = $4 AND id = $5`,
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
