package postgres

import "github.com/berthdev/berth/internal/store/fold"

// part is what a tx has that is one of several in its attempt.
type part struct {
	wait  func() // gives way to the others; nil when there are none
	ready bool   // to go on
	after *tx    // the part that has the row this wants
	wrote bool   // something left
	over  bool
	ended int // the round after which it was over
}

// Beside begins a part: its questions wait for those of the others, and what
// it wrote leaves with its next question or when it is over.
func (a *attempt) Beside(wait func()) fold.Part {
	if a.owner == nil {
		a.owner = make(map[string]*tx)
	}
	t := &tx{shared: a.shared, part: part{wait: wait, ready: true}}
	t.Reader = reader(t.ask)
	return t
}

// Ask sends what all parts ask for in one round trip.
func (a *attempt) Ask() bool {
	if len(a.asking) == 0 {
		return false
	}
	asking := a.asking
	a.asking, a.claims = nil, nil
	a.round++
	// What is over goes first: others may be asking for rows that it had.
	a.send(append([]*tx{a.whole}, asking...))
	for _, t := range asking {
		t.ready = true
	}
	return true
}

func (a *attempt) Fail(err error) { a.err = err }

func (t *tx) Ready() bool { return t.ready || t.err != nil || t.after != nil && t.after.over }

func (t *tx) Join() {
	t.end()
	w := t.whole
	w.waiting, w.notes, w.saw = append(w.waiting, t.waiting...), append(w.notes, t.notes...), append(w.saw, t.saw...)
}

func (t *tx) Drop() bool {
	t.end()
	for key, other := range t.owner {
		if other == t {
			delete(t.known, key)
		}
	}
	return !t.wrote
}

func (t *tx) end() { t.over, t.ended = true, t.round }

// overtaken says that another part may have written a row since this one
// asked for it.
func (t *tx) overtaken(key string) bool {
	other := t.owner[key]
	return other != nil && other != t && (!other.over || other.ended >= t.round)
}
