package httpapi

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/turn"
)

// pageBytes ends a page of events early, so that long ones do not fill the
// memory; the next page goes on behind it.
const pageBytes = 16 << 20

func sendEvents(c *call) (any, error) {
	var req api.SendEvents
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	if req.Events == nil {
		return nil, plane.Errorf(plane.Invalid, "is required").In("events")
	}
	key, err := c.idempotencyKey()
	if err != nil {
		return nil, err
	}
	sent, err := c.s.cfg.Turn.AcceptSend(c.ctx(), c.path("session"), turn.Send{Who: c.who, Key: key, Events: req.Events})
	if err != nil {
		return nil, noSession(err, c.path("session"))
	}
	if sent == nil {
		sent = api.EventList{}
	}
	return api.SentEvents{Data: sent}, nil
}

// idempotencyKey is what the client calls this send by, so that a repeat adds
// nothing; "" for none.
func (c *call) idempotencyKey() (string, error) {
	const most = 255
	key := c.r.Header.Get("Idempotency-Key")
	for _, b := range []byte(key) {
		if b <= ' ' || b > '~' {
			return "", plane.Errorf(plane.Invalid, "must be visible ASCII without spaces").In("Idempotency-Key")
		}
	}
	if len(key) > most {
		return "", plane.Errorf(plane.Invalid, "is longer than %d characters", most).In("Idempotency-Key")
	}
	return key, nil
}

func listEvents(c *call) (any, error) {
	q, err := c.query()
	if err != nil {
		return nil, err
	}
	session := c.path("session")
	list := "events of " + session
	order, err := q.oneOf("order", "asc", "desc")
	if err != nil {
		return nil, err
	}
	w, limit, err := q.pageOf(list, order, 1000, 1000)
	if err != nil {
		return nil, err
	}
	sel := store.EventQuery{Desc: order == "desc"}
	if err := place(w.After, &sel); err != nil {
		return nil, err
	}
	if sel.Types, err = q.list("types", 100); err != nil {
		return nil, err
	}
	if sel.Processed, err = q.timeRange("created_at"); err != nil {
		return nil, err
	}
	var rows []plane.StoredEvent
	var more bool
	err = c.s.cfg.Store.View(c.ctx(), func(r store.Reader) error {
		var err error
		if rows, more, err = readLog(r, session, sel, limit); err != nil || len(rows) > 0 {
			return err
		}
		_, err = r.Session(session)
		return noSession(err, session)
	})
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	b.WriteString(`{"data":[`)
	for i, row := range rows {
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(row.Body)
	}
	b.WriteString(`],"next_page":`)
	if more {
		next := cursor{list: list, order: order, after: placeOf(beyond(sel, rows))}.String()
		b.WriteString(strconv.Quote(next))
	} else {
		b.WriteString("null")
	}
	b.WriteByte('}')
	return json.RawMessage(b.Bytes()), nil
}

// readLog reads a page: at most limit rows, and no more than it takes to pass
// pageBytes. It reads in growing steps, because a row may be 10 MiB.
func readLog(r store.Reader, session string, sel store.EventQuery, limit int) (rows []plane.StoredEvent, more bool, err error) {
	size := 0
	for step := 8; ; {
		sel.Limit = min(step, limit+1-len(rows))
		got, err := r.Events(session, sel)
		if err != nil {
			return nil, false, err
		}
		rows = append(rows, got...)
		if len(rows) > limit {
			return rows[:limit], true, nil
		}
		if len(got) < sel.Limit {
			return rows, false, nil
		}
		for _, e := range got {
			size += len(e.Body)
		}
		if size >= pageBytes {
			// All but the last, which says that there is more.
			return rows[:max(1, len(rows)-1)], true, nil
		}
		step = max(1, min(step*4, (pageBytes-size)/(size/len(rows)+1)))
		sel = beyond(sel, got)
	}
}

// beyond moves a query behind the rows it gave. An ascending one that has come
// to the queued rows still remembers the last with a place: some may get
// theirs before the next page is read.
func beyond(q store.EventQuery, rows []plane.StoredEvent) store.EventQuery {
	last := rows[len(rows)-1]
	switch {
	case last.Pos == 0:
		q.AfterQueued = last.ID
	case q.Desc:
		q.AfterQueued = ""
	}
	if q.Desc {
		q.AfterPos = last.Pos
		return q
	}
	for _, e := range slices.Backward(rows) {
		if e.Pos != 0 {
			q.AfterPos = e.Pos
			break
		}
	}
	return q
}

// placeOf is a query's place as a cursor holds it: a pos, an id of a queued
// event, or both.
func placeOf(q store.EventQuery) string {
	pos := strconv.FormatInt(q.AfterPos, 10)
	switch {
	case q.AfterQueued == "":
		return pos
	case q.AfterPos == 0:
		return q.AfterQueued
	}
	return pos + "-" + q.AfterQueued
}

// place puts a cursor's place into a query.
func place(after string, q *store.EventQuery) error {
	switch {
	case after == "":
	case strings.HasPrefix(after, plane.PrefixEvent):
		q.AfterQueued = after
	default:
		pos, queued, both := strings.Cut(after, "-")
		n, err := strconv.ParseInt(pos, 10, 64)
		if both && !strings.HasPrefix(queued, plane.PrefixEvent) {
			err = strconv.ErrSyntax
		}
		q.AfterQueued = queued
		if err != nil || n < 1 {
			return plane.Errorf(plane.Invalid, "the cursor is not one of ours").In("page")
		}
		q.AfterPos = n
	}
	return nil
}
