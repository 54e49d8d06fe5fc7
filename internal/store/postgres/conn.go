package postgres

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store/record"
)

// roundTripLimit bounds how long the server may be silent within one
// transaction before its connection is given up.
const roundTripLimit = 30 * time.Second

// epoch is where PostgreSQL counts microseconds from.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro()

// conn is one connection with its prepared statements. It speaks the protocol
// below pgx's query layer, because the writer sends what several transitions
// wrote, and the next question, in one round trip. One goroutine at a time.
type conn struct {
	pg    *pgconn.PgConn
	stmts map[string]*pgconn.StatementDescription
}

func connect(ctx context.Context, cfg *pgconn.Config) (*conn, error) {
	pg, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return &conn{pg: pg, stmts: make(map[string]*pgconn.StatementDescription)}, nil
}

func (c *conn) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	c.pg.Close(ctx)
}

// usable is false for none and for one that has failed.
func (c *conn) usable() bool { return c != nil && !c.pg.IsClosed() }

// errNotStorable is found before anything is sent.
var errNotStorable = plane.Errorf(plane.Invalid, "text must be UTF-8 without NUL characters")

// call is a statement with its values, ready to be sent.
type call struct {
	st     *pgconn.StatementDescription
	values [][]byte
	// check, if any, turns a failure into the error that the transition gets.
	// It is asked about nil when the statement counts and changed no row.
	check  func(error) error
	counts bool
	read   func(*pgconn.ResultReader) error // takes its rows, if any are wanted
}

func (c *conn) prepare(sql string) (*pgconn.StatementDescription, error) {
	st, ok := c.stmts[sql]
	if ok {
		return st, nil
	}
	st, err := c.pg.Prepare(context.Background(), "b"+strconv.Itoa(len(c.stmts)), numbered(sql), nil)
	if err != nil {
		return nil, fmt.Errorf("prepare %q: %w", sql, err)
	}
	c.stmts[sql] = st
	return st, nil
}

// numbered gives each ? its number.
func numbered(sql string) string {
	parts := strings.Split(sql, `?`)
	var b strings.Builder
	for i, part := range parts {
		if i > 0 {
			b.WriteString(`$` + strconv.Itoa(i))
		}
		b.WriteString(part)
	}
	return b.String()
}

func (c *conn) call(sql string, values []any) (call, error) {
	encoded, err := encode(values)
	if err != nil {
		return call{}, err
	}
	return c.encoded(sql, encoded)
}

// encoded is call with values as encode gives them.
func (c *conn) encoded(sql string, values [][]byte) (call, error) {
	st, err := c.prepare(sql)
	if err != nil {
		return call{}, err
	}
	if len(values) != len(st.ParamOIDs) {
		return call{}, fmt.Errorf("statement %q takes %d values, not %d", sql, len(st.ParamOIDs), len(values))
	}
	return call{st: st, values: values}, nil
}

// encode gives values the binary form that columns of their kind have too; nil
// is NULL.
func encode(values []any) ([][]byte, error) {
	out := make([][]byte, len(values))
	size := 0
	for _, v := range values {
		if s, ok := v.(string); ok {
			size += len(s)
		} else {
			size += 8
		}
	}
	all := make([]byte, 0, size)
	for i, v := range values {
		start := len(all)
		switch x := v.(type) {
		case string:
			if !record.Storable(x) {
				return nil, errNotStorable
			}
			all = append(all, x...)
		case []byte:
			out[i] = x
			continue
		case *time.Time:
			if x == nil {
				continue
			}
			all = appendInt(all, x.UnixMicro()-epoch)
		case time.Time:
			if x.IsZero() {
				continue
			}
			all = appendInt(all, x.UnixMicro()-epoch)
		case int:
			all = appendInt(all, int64(x))
		case int64:
			all = appendInt(all, x)
		case bool:
			b := byte(0)
			if x {
				b = 1
			}
			all = append(all, b)
		default:
			return nil, fmt.Errorf("value %d has type %T", i+1, v)
		}
		out[i] = all[start:len(all):len(all)]
	}
	return out, nil
}

func appendInt(b []byte, n int64) []byte { return binary.BigEndian.AppendUint64(b, uint64(n)) }

var binaryFormat = []int16{1}

// send runs the calls in one round trip. The first failure ends the rest.
func (c *conn) send(calls ...call) error {
	p := c.pg.StartPipeline(context.Background())
	for _, k := range calls {
		p.SendQueryStatement(k.st, k.values, binaryFormat, binaryFormat)
	}
	if err := p.Sync(); err != nil {
		p.Close()
		return err
	}
	var failure error
	for _, k := range calls {
		results, err := p.GetResults()
		if err == nil {
			rr, ok := results.(*pgconn.ResultReader)
			if !ok {
				failure = fmt.Errorf("unexpected answer %T", results)
				break
			}
			if k.read != nil {
				failure = k.read(rr)
			}
			var tag pgconn.CommandTag
			tag, err = rr.Close()
			if err == nil && failure == nil && k.counts && tag.RowsAffected() == 0 {
				failure = k.check(nil)
			}
		}
		if err != nil && failure == nil {
			failure = err
			if k.check != nil {
				failure = k.check(err)
			}
		}
		if failure != nil {
			break
		}
	}
	if err := p.Close(); err != nil && failure == nil {
		failure = err
	}
	return failure
}

var dialect = record.Dialect{Latest: `latest`, Among: `= ANY (ARRAY(SELECT json_array_elements_text(?::json)))`}

// rows reads an answer row by row.
func rows(each func(record.Row) error) func(*pgconn.ResultReader) error {
	return func(rr *pgconn.ResultReader) error {
		for rr.NextRow() {
			if err := each(&row{fields: rr.FieldDescriptions(), values: rr.Values()}); err != nil {
				return err
			}
		}
		return nil
	}
}

// reader reads by what ask sends.
func reader(ask func(sql string, values []any, read func(*pgconn.ResultReader) error) error) record.Reader {
	return record.Reader{Dialect: dialect, Ask: func(sql string, values []any, each func(record.Row) error) error {
		err := ask(sql, values, rows(each))
		if errors.Is(err, errNotStorable) {
			return nil
		}
		return err
	}}
}

// row is a record.Row over the binary form of a row.
type row struct {
	fields []pgconn.FieldDescription
	values [][]byte
	next   int
}

func (r *row) value() []byte {
	v := r.values[r.next]
	r.next++
	return v
}

func (r *row) Text() string { return string(r.value()) }

func (r *row) Bytes() []byte { return slices.Clone(r.value()) }

func (r *row) Int() int64 {
	v := r.value()
	if v == nil {
		return 0
	}
	return int64(binary.BigEndian.Uint64(v))
}

func (r *row) Bool() bool {
	v := r.value()
	return len(v) == 1 && v[0] != 0
}

func (r *row) Time() time.Time {
	v := r.value()
	if v == nil {
		return time.Time{}
	}
	return time.UnixMicro(int64(binary.BigEndian.Uint64(v)) + epoch).UTC()
}

func (r *row) TimePtr() *time.Time {
	t := r.Time()
	if t.IsZero() {
		return nil
	}
	return &t
}

// SQLSTATEs that mean something to us.
const (
	stateUnique    = "23505"
	stateForeign   = "23503"
	stateSerialize = "40001"
	stateDeadlock  = "40P01"
	stateLocked    = "55P03" // lock_timeout
	stateOldPlan   = "0A000" // the schema changed under a prepared statement
	stateAdminStop = "57P01"
	stateCrashStop = "57P02"
	stateStarting  = "57P03"
	stateIdleInTx  = "25P03"
	stateTooMany   = "53300"
	stateReadOnly  = "25006" // after a failover, of a standby
)

func sqlState(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code
	}
	return ""
}

// lostConnection says that the failure is the connection's, not a statement's.
func lostConnection(err error) bool {
	switch sqlState(err) {
	case "":
		_, ours := errors.AsType[*plane.Error](err)
		return err != nil && !ours
	case stateAdminStop, stateCrashStop, stateStarting, stateIdleInTx, stateTooMany, stateReadOnly, stateOldPlan:
		return true
	}
	return false
}
