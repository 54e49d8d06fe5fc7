package postgres

import (
	"cmp"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/store/record"
)

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
	return lock(t, "work item", keeping(t, "work ", record.Work), `SELECT `+record.WorkColumns+` FROM work WHERE id = $1`, id)
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
	found, read := false, keeping(t, "work ", record.Work)
	k.read = rows(func(r record.Row) (err error) {
		w, err = read(r)
		found = true
		return err
	})
	t.questions = append(t.questions, k)
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
	values, err := record.WorkValues(&w)
	if err != nil {
		return err
	}
	return t.rewrite("work ", "work", "the session has a live work item", record.WorkNames, values)
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

func (t *tx) PruneWork(stoppedBefore, seenBefore time.Time) error {
	if err := t.write(nil, `DELETE FROM work WHERE state = 'stopped' AND stopped_at < $1`, stoppedBefore); err != nil {
		return err
	}
	return t.write(nil, `DELETE FROM workers WHERE seen_at < $1`, seenBefore)
}

// sight is a worker that polled.
type sight struct {
	EnvironmentID string    `json:"environment_id"`
	Worker        string    `json:"worker"`
	SeenAt        time.Time `json:"seen_at"`
}
