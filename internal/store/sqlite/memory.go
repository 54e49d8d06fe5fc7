package sqlite

import (
	"bytes"
	"cmp"
	"database/sql/driver"
	"slices"
	"strings"
	"sync"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/store/record"
)

// What is remembered is bounded by count and by bytes, each half of each table.
const (
	maxRows  = 4096
	maxBytes = 8 << 20
)

// tokenPlace is that of a work item's token.
const tokenPlace = 6

// shelf holds rows by their id. A full one puts any others out.
type shelf struct {
	rows  map[string][]driver.Value
	bytes int
}

func (s *shelf) put(id string, row []driver.Value) {
	s.drop(id)
	n := size(row)
	if n > maxBytes/8 {
		return
	}
	for other := range s.rows {
		if s.bytes+n <= maxBytes && len(s.rows) < maxRows {
			break
		}
		s.drop(other)
	}
	if s.rows == nil {
		s.rows = map[string][]driver.Value{}
	}
	s.rows[id] = row
	s.bytes += n
}

func (s *shelf) drop(id string) {
	if row, there := s.rows[id]; there {
		delete(s.rows, id)
		s.bytes -= size(row)
	}
}

func size(row []driver.Value) int {
	n := 16 * len(row)
	for _, v := range row {
		switch v := v.(type) {
		case string:
			n += len(v)
		case []byte:
			n += len(v)
		}
	}
	return n
}

// memory remembers rows of one table, as the writer read or wrote them: a
// session's steps read the same few rows again and again, and nobody but this
// process writes to them. Keys, which others make and revoke beside it, are not
// remembered. Rows are never changed in place.
type memory struct {
	// The writer's half, as its open transaction sees the rows. It belongs to
	// the writer's goroutine.
	shelf
	touched map[string]bool // since readers were shown them; "" for all

	// The readers' half, as last committed.
	mu        sync.RWMutex
	committed shelf
}

func newMemory() *memory { return &memory{touched: map[string]bool{}} }

// keep says how a row is that the writer has read or changed.
func (m *memory) keep(id string, row []driver.Value) {
	m.touched[id] = true
	m.put(id, row)
}

// lose says that the writer has changed a row to what is not known here.
func (m *memory) lose(id string) {
	m.touched[id] = true
	m.drop(id)
}

// loseAll says that the writer may have changed every row.
func (m *memory) loseAll() {
	m.touched[""] = true
	m.shelf = shelf{}
}

// forget has the writer read everything again.
func (m *memory) forget() {
	m.shelf = shelf{}
	clear(m.touched)
}

// show has readers see what was committed.
func (m *memory) show() {
	if len(m.touched) == 0 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.touched[""] {
		m.committed = shelf{}
	}
	for id := range m.touched {
		if row, known := m.rows[id]; known {
			m.committed.put(id, row)
		} else {
			m.committed.drop(id)
		}
	}
	clear(m.touched)
}

// last gives a row as last committed, nil if it is not remembered.
func (m *memory) last(id string) []driver.Value {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.committed.rows[id]
}

// pending is what the writer knows of a session that waits. It is never
// shown to readers.
type pending struct {
	noQueue bool         // no event of it waits for its place
	calls   bool         // open is known
	open    []plane.Call // in log order
}

// memories are all that a store remembers.
type memories struct {
	environments, sessions, work *memory

	live    map[string]string   // ids of live work items by session: a hint, the writer's
	pending map[string]*pending // by session, the writer's

	tokensMu sync.RWMutex
	tokens   map[string]string // ids of work items by token: a hint, the readers'
}

func newMemories() *memories {
	return &memories{
		environments: newMemory(), sessions: newMemory(), work: newMemory(),
		live: map[string]string{}, pending: map[string]*pending{}, tokens: map[string]string{},
	}
}

func (m *memories) all() [3]*memory { return [...]*memory{m.environments, m.sessions, m.work} }

// committed has readers see what the writer has.
func (m *memories) committed() {
	for _, one := range m.all() {
		one.show()
	}
}

// rolledBack forgets what may never have been.
func (m *memories) rolledBack() {
	for _, one := range m.all() {
		one.forget()
	}
	clear(m.live)
	clear(m.pending)
}

// waiting is what is known of a session, to be added to.
func (m *memories) waiting(session string) *pending {
	p := m.pending[session]
	if p == nil {
		if len(m.pending) >= maxRows {
			clear(m.pending)
		}
		p = &pending{}
		m.pending[session] = p
	}
	return p
}

// keepWork is keep for a work item; only live ones are remembered.
func (m *memories) keepWork(columns []driver.Value) {
	r := row{values: columns}
	id, _, session, state := r.Text(), r.Text(), r.Text(), r.Text()
	if state == string(api.WorkStopped) {
		m.work.lose(id)
		return
	}
	m.work.keep(id, columns)
	if len(m.live) >= maxRows {
		clear(m.live)
	}
	m.live[session] = id
	r.next = tokenPlace
	token := r.Text()
	if token == "" {
		return
	}
	m.tokensMu.Lock()
	defer m.tokensMu.Unlock()
	if len(m.tokens) >= maxRows {
		clear(m.tokens)
	}
	m.tokens[token] = id
}

// byToken is the live item of a token as last committed, nil if it is not
// remembered.
func (m *memories) byToken(token string) []driver.Value {
	m.tokensMu.RLock()
	id := m.tokens[token]
	m.tokensMu.RUnlock()
	known := m.work.last(id)
	if known == nil || known[tokenPlace] != token {
		return nil
	}
	return known
}

// row reads one row, or remembers it. It is not to be changed.
func (t *tx) row(m *memory, what, id, sql string) ([]driver.Value, error) {
	if known := m.rows[id]; known != nil {
		return known, nil
	}
	read, err := record.One(t.Ask, what, values, sql, id)
	if err == nil {
		m.keep(id, read)
	}
	return read, err
}

// values are the columns of a row as they are.
func values(r record.Row) ([]driver.Value, error) { return slices.Clone(r.(*row).values), nil }

// rewrite sets those of a row's columns that differ from how they are; an
// empty name is one that never changes. It gives the row as it is then.
func (t *tx) rewrite(table, what, id string, old []driver.Value, names []string, to []any) ([]driver.Value, error) {
	now := slices.Clone(old)
	var sql strings.Builder
	var set []any
	for i, name := range names {
		v := stored(to[i])
		if name == "" || same(old[i], v) {
			continue
		}
		if len(set) == 0 {
			sql.WriteString(`UPDATE ` + table + ` SET `)
		} else {
			sql.WriteString(`, `)
		}
		sql.WriteString(name + ` = ?`)
		set, now[i] = append(set, to[i]), v
	}
	if len(set) == 0 {
		return old, nil
	}
	sql.WriteString(` WHERE id = ?`)
	return now, t.update(what, sql.String(), append(set, id)...)
}

func same(a, b driver.Value) bool {
	x, bytesA := a.([]byte)
	y, bytesB := b.([]byte)
	if bytesA || bytesB {
		return bytesA && bytesB && bytes.Equal(x, y)
	}
	return a == b
}

func (t *tx) Environment(id string) (plane.Environment, error) {
	r, err := t.row(t.s.memory.environments, "environment", id, record.EnvironmentByID)
	if err != nil {
		return plane.Environment{}, err
	}
	return record.Environment(&row{values: r})
}

func (t *tx) Session(id string) (plane.Session, error) {
	r, err := t.row(t.s.memory.sessions, "session", id, record.SessionByID)
	if err != nil {
		return plane.Session{}, err
	}
	return record.Session(&row{values: r})
}

func (t *tx) Work(id string) (plane.WorkItem, error) {
	if known := t.s.memory.work.rows[id]; known != nil {
		return record.Work(&row{values: known})
	}
	return t.keptWork(record.WorkByID, id)
}

func (t *tx) LiveWork(session string) (plane.WorkItem, error) {
	if known := t.s.memory.work.rows[t.s.memory.live[session]]; known != nil {
		return record.Work(&row{values: known})
	}
	return t.keptWork(record.LiveWork, session)
}

func (t *tx) LastWork(session string) (plane.WorkItem, error) {
	if known := t.s.memory.work.rows[t.s.memory.live[session]]; known != nil {
		return record.Work(&row{values: known})
	}
	return t.keptWork(record.LastWork, session, session)
}

// keptWork reads an item and remembers it.
func (t *tx) keptWork(sql string, by ...any) (plane.WorkItem, error) {
	r, err := t.workRow(sql, by...)
	if err != nil {
		return plane.WorkItem{}, err
	}
	return record.Work(&row{values: r})
}

func (t *tx) workRow(sql string, by ...any) ([]driver.Value, error) {
	r, err := record.One(t.Ask, "work item", values, sql, by...)
	if err == nil {
		t.s.memory.keepWork(r)
	}
	return r, err
}

func (t *tx) OpenCalls(session string) ([]plane.Call, error) {
	p := t.s.memory.waiting(session)
	if !p.calls {
		open, err := t.Reader.OpenCalls(session)
		if err != nil {
			return nil, err
		}
		p.calls, p.open = true, open
	}
	return append([]plane.Call(nil), p.open...), nil
}

func (t *tx) Call(session, id string) (plane.Call, error) {
	for _, c := range t.s.memory.waiting(session).open {
		if c.ID == id {
			return c, nil
		}
	}
	return t.Reader.Call(session, id)
}

func (t *tx) Events(session string, q store.EventQuery) ([]plane.StoredEvent, error) {
	p := t.s.memory.waiting(session)
	switch {
	case !p.noQueue || q.AfterQueued != "":
		rows, err := t.Reader.Events(session, q)
		all := q.Queued && q.AfterQueued == "" && len(q.Types) == 0 && q.Processed == store.TimeRange{}
		p.noQueue = p.noQueue || err == nil && all && len(rows) == 0
		return rows, err
	case q.Queued:
		return nil, nil
	}
	return t.Placed(session, q)
}

// asked adds a call that was written.
func (p *pending) asked(c plane.Call) {
	if p.calls && c.Open() {
		p.open = append(p.open, c)
		slices.SortFunc(p.open, func(a, b plane.Call) int { return cmp.Or(cmp.Compare(a.Pos, b.Pos), cmp.Compare(a.ID, b.ID)) })
	}
}

// settled says how a call stands that was written.
func (p *pending) settled(c plane.Call) {
	i := slices.IndexFunc(p.open, func(o plane.Call) bool { return o.ID == c.ID })
	switch {
	case i < 0:
		p.calls = p.calls && !c.Open()
	case c.Open():
		p.open[i].State, p.open[i].AnswerID, p.open[i].AnswerDigest = c.State, c.AnswerID, c.AnswerDigest
	default:
		p.open = slices.Delete(p.open, i, i+1)
	}
}
