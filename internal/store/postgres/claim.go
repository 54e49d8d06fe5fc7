package postgres

import (
	"errors"

	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/store/record"
)

const claimSQL = `SELECT ` + record.WorkColumns + ` FROM work
	WHERE environment_id = ? AND state = 'queued' AND (not_before IS NULL OR not_before <= ?)
		AND (delivered_at IS NULL OR delivered_at < ?)
		AND (prefer_worker = '' OR prefer_worker = ? OR prefer_until IS NULL OR prefer_until <= ?)
	ORDER BY has_input DESC, created_at, id LIMIT ? FOR NO KEY UPDATE SKIP LOCKED`

// claims is one question for what several parts claim alike: an item each.
type claims struct {
	store.Claim
	parts  int
	values [][]byte   // of the question, until it is sent
	got    [][][]byte // rows, the first part's first
}

// ClaimWork is store.Tx's. No row is locked here that no part gets: others pass
// over it and would not look again.
func (t *tx) ClaimWork(c store.Claim) (plane.WorkItem, error) {
	for {
		values, err := t.claim(c)
		if err != nil {
			return plane.WorkItem{}, err
		}
		w, err := record.Work(&row{values: values})
		if err != nil {
			return w, err
		}
		// The database does not say that another part of this attempt has it.
		stale := t.overtaken("work " + w.ID)
		if err := t.take("work ", w.ID); err != nil {
			return w, err
		}
		if !stale {
			t.keep("work ", values)
			return w, nil
		}
	}
}

// claim gives the row of the next item.
func (t *tx) claim(c store.Claim) ([][]byte, error) {
	none := plane.Errorf(plane.NotFound, "work item not found")
	q := t.alike(c)
	place := 0
	if q != nil {
		place = q.parts
		if err := errors.Join(q.join(c), t.asks()); err != nil {
			return nil, err
		}
	} else {
		q = &claims{Claim: c, parts: 1}
		k, err := t.call(claimSQL, q.asked())
		if errors.Is(err, errNotStorable) {
			return nil, none
		}
		if err != nil {
			return nil, err
		}
		q.values = k.values
		k.read = rows(func(r record.Row) error {
			q.got = append(q.got, cloned(r.(*row).values))
			return nil
		})
		if t.wait != nil {
			t.claims = append(t.claims, q)
		}
		if err := t.flush(k); err != nil {
			return nil, err
		}
	}
	if place >= len(q.got) {
		return nil, none
	}
	return q.got[place], nil
}

// alike is a question of this round that asks for the same, nil if there is
// none, or if what this part wrote must go before it.
func (t *tx) alike(c store.Claim) *claims {
	for _, q := range t.claims {
		if len(t.waiting) == 0 && q.Environment == c.Environment && q.Worker == c.Worker && q.Now.Sub(q.ReclaimBefore) == c.Now.Sub(c.ReclaimBefore) {
			return q
		}
	}
	return nil
}

// join asks for one more, and at the later time: what only the earlier one held
// back would not be foreseen by the other.
func (q *claims) join(c store.Claim) error {
	q.parts++
	if c.Now.After(q.Now) {
		q.Now, q.ReclaimBefore = c.Now, c.ReclaimBefore
	}
	values, err := encode(q.asked())
	copy(q.values, values)
	return err
}

// asked are the values of the question.
func (q *claims) asked() []any {
	return []any{q.Environment, q.Now, q.ReclaimBefore, q.Worker, q.Now, q.parts}
}
