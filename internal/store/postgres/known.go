package postgres

import (
	"bytes"
	"strings"

	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store/record"
)

// known are rows that this transaction has locked or made, by the keys of
// take, as the database has them: nobody else changes them before the commit.
type known map[string][][]byte

// keeping is read, and remembers the row that it has locked.
func keeping[T any](t *tx, kind string, read func(record.Row) (T, error)) func(record.Row) (T, error) {
	return func(r record.Row) (T, error) {
		v, err := read(r)
		if err == nil {
			t.keep(kind, cloned(r.(*row).values))
		}
		return v, err
	}
}

// keep remembers a row, whose first column is its id.
func (t *tx) keep(kind string, values [][]byte) {
	if t.known == nil {
		t.known = make(known)
	}
	t.known[kind+string(values[0])] = values
}

// cloned copies a row out of the connection's buffer.
func cloned(values [][]byte) [][]byte {
	size := 0
	for _, v := range values {
		size += len(v)
	}
	out, all := make([][]byte, len(values)), make([]byte, 0, size)
	for i, v := range values {
		if v == nil {
			continue
		}
		start := len(all)
		all = append(all, v...)
		out[i] = all[start:len(all):len(all)]
	}
	return out
}

// rewrite queues an UPDATE of the columns that differ from the row as it is
// known, or of all that can. names are those of values, "" for what never
// changes; the first value is the id. NotFound, at the latest from Update, when
// there is no such row.
func (t *tx) rewrite(kind, table, taken string, names []string, values []any) error {
	to, err := encode(values)
	if err != nil {
		return err
	}
	id := to[0]
	old := t.known[kind+string(id)]
	var sql strings.Builder
	sql.WriteString(`UPDATE ` + table + ` SET `)
	set := make([][]byte, 0, len(names))
	for i, name := range names {
		if name == "" || old != nil && (old[i] == nil) == (to[i] == nil) && bytes.Equal(old[i], to[i]) {
			continue
		}
		if len(set) > 0 {
			sql.WriteString(`, `)
		}
		sql.WriteString(name + ` = ?`)
		set = append(set, to[i])
		if old != nil {
			old[i] = to[i]
		}
	}
	if len(set) == 0 {
		return nil
	}
	sql.WriteString(` WHERE id = ?`)
	k, err := t.encoded(sql.String(), append(set, id))
	if err != nil {
		return err
	}
	k.counts = old == nil
	k.check = func(err error) error {
		if err == nil {
			return plane.Errorf(plane.NotFound, "%s not found", strings.TrimSpace(kind))
		}
		return broken(err, taken)
	}
	t.waiting = append(t.waiting, k)
	return nil
}
