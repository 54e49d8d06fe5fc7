package sqlite

import (
	"context"
	"database/sql/driver"
	"fmt"
	"io"
	"time"

	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store/record"
)

// conn is one connection with its prepared statements. It speaks to the
// driver itself: what database/sql adds costs more than a statement here.
// One goroutine at a time.
type conn struct {
	c     driver.Conn
	stmts map[string]statement
	args  []driver.NamedValue // reused
}

// maxStatements bounds what is prepared: which columns are set is often part
// of a statement.
const maxStatements = 512

type statement struct {
	driver.Stmt
	query driver.StmtQueryContext
	exec  driver.StmtExecContext
}

func connect(connector driver.Connector) (*conn, error) {
	c, err := connector.Connect(context.Background())
	if err != nil {
		return nil, err
	}
	return &conn{c: c, stmts: make(map[string]statement)}, nil
}

func (c *conn) close() error {
	for _, s := range c.stmts {
		s.Close()
	}
	return c.c.Close()
}

func (c *conn) prepare(sql string) (statement, error) {
	s, ok := c.stmts[sql]
	if ok {
		return s, nil
	}
	if len(c.stmts) >= maxStatements {
		for _, s := range c.stmts {
			s.Close()
		}
		clear(c.stmts)
	}
	st, err := c.c.Prepare(sql)
	if err != nil {
		return s, fmt.Errorf("prepare %q: %w", sql, err)
	}
	s = statement{Stmt: st, query: st.(driver.StmtQueryContext), exec: st.(driver.StmtExecContext)}
	c.stmts[sql] = s
	return s, nil
}

// errNotStorable is what PostgreSQL would say as well.
var errNotStorable = plane.Errorf(plane.Invalid, "text must be UTF-8 without NUL characters")

// bind turns values into the driver's. Times are microseconds, NULL for none.
func (c *conn) bind(values []any) ([]driver.NamedValue, error) {
	c.args = c.args[:0]
	for i, v := range values {
		if text, ok := v.(string); ok && !record.Storable(text) {
			return nil, errNotStorable
		}
		c.args = append(c.args, driver.NamedValue{Ordinal: i + 1, Value: stored(v)})
	}
	return c.args, nil
}

// stored is a value as a row gives it back.
func stored(v any) driver.Value {
	switch x := v.(type) {
	case time.Time:
		if x.IsZero() {
			return nil
		}
		return x.UnixMicro()
	case *time.Time:
		if x == nil {
			return nil
		}
		return x.UnixMicro()
	case []byte:
		if x == nil {
			return nil
		}
	case int:
		return int64(x)
	case bool:
		if x {
			return int64(1)
		}
		return int64(0)
	}
	return v
}

// columns is a row of values as it is read back.
func columns(values []any) []driver.Value {
	row := make([]driver.Value, len(values))
	for i, v := range values {
		row[i] = stored(v)
	}
	return row
}

// exec runs a statement and says how many rows it changed.
func (c *conn) exec(sql string, values ...any) (int64, error) {
	s, err := c.prepare(sql)
	if err != nil {
		return 0, err
	}
	args, err := c.bind(values)
	if err != nil {
		return 0, err
	}
	res, err := s.exec.ExecContext(context.Background(), args)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// ask is a record.Ask.
func (c *conn) ask(sql string, values []any, each func(record.Row) error) (err error) {
	s, err := c.prepare(sql)
	if err != nil {
		return err
	}
	args, err := c.bind(values)
	if err != nil {
		return nil // so it is not stored
	}
	rows, err := s.query.QueryContext(context.Background(), args)
	if err != nil {
		return err
	}
	defer func() {
		if e := rows.Close(); err == nil {
			err = e
		}
	}()
	r := row{values: make([]driver.Value, len(rows.Columns()))}
	for {
		if err := rows.Next(r.values); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		r.next = 0
		if err := each(&r); err != nil {
			return err
		}
	}
}

var dialect = record.Dialect{Latest: `latest = 1`, Among: `IN (SELECT value FROM json_each(?))`}

// reader reads in the transaction that the connection is in, if any.
func (c *conn) reader() record.Reader { return record.Reader{Dialect: dialect, Ask: c.ask} }

// row is a record.Row over the driver's values.
type row struct {
	values []driver.Value
	next   int
}

func (r *row) value() driver.Value {
	v := r.values[r.next]
	r.next++
	return v
}

func (r *row) Text() string {
	s, _ := r.value().(string)
	return s
}

func (r *row) Bytes() []byte {
	switch v := r.value().(type) {
	case string:
		return []byte(v)
	case []byte:
		return v
	}
	return nil
}

func (r *row) Int() int64 {
	n, _ := r.value().(int64)
	return n
}

func (r *row) Bool() bool { return r.Int() != 0 }

func (r *row) Time() time.Time {
	n, ok := r.value().(int64)
	if !ok {
		return time.Time{}
	}
	return time.UnixMicro(n).UTC()
}

func (r *row) TimePtr() *time.Time {
	n, ok := r.value().(int64)
	if !ok {
		return nil
	}
	t := time.UnixMicro(n).UTC()
	return &t
}
