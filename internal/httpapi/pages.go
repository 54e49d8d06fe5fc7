package httpapi

import (
	"encoding/base64"
	"strconv"
	"strings"

	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
)

// cursor is a place in a list. It belongs to one list in one order; what it
// is made of is nobody's business but ours.
type cursor struct {
	list     string // the list's name, with its parent's id if it has one
	order    string // "asc" or "desc"
	backward bool
	after    string // an id, a version, or a place in a log
}

const cursorVersion = "1"

func (c cursor) String() string {
	way := "f"
	if c.backward {
		way = "b"
	}
	return base64.RawURLEncoding.EncodeToString([]byte(strings.Join([]string{cursorVersion, c.list, c.order, way, c.after}, "\n")))
}

// parseCursor reads a cursor for a list in an order.
func parseCursor(s, list, order string) (cursor, error) {
	bad := func(why string) (cursor, error) {
		return cursor{}, plane.Errorf(plane.Invalid, "the cursor %s; take next_page of this list as it is", why).In("page")
	}
	if len(s) > 1024 {
		return bad("is too long")
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil {
		return bad("is not one of ours")
	}
	parts := strings.Split(string(raw), "\n")
	if len(parts) != 5 || parts[0] != cursorVersion || parts[3] != "f" && parts[3] != "b" || !idText(parts[4]) {
		return bad("is not one of ours")
	}
	if parts[1] != list {
		return bad("belongs to another list")
	}
	if parts[2] != order {
		return bad("belongs to the order " + strconv.Quote(clip(parts[2])))
	}
	return cursor{list, order, parts[3] == "b", parts[4]}, nil
}

// pageOf reads limit and page of a list in an order. The window asks for one
// row more than the limit, to know whether there is a next page.
func (q query) pageOf(list, order string, def, most int) (w store.Window, limit int, err error) {
	if limit, err = q.number("limit", def, 1, most); err != nil {
		return w, 0, err
	}
	w = store.Window{Limit: limit + 1, Asc: order == "asc"}
	if p := q.v.Get("page"); p != "" {
		cur, err := parseCursor(p, list, order)
		if err != nil {
			return w, 0, err
		}
		w.After, w.Backward = cur.after, cur.backward
	}
	return w, limit, nil
}

// cut drops the row that only says there are more, and gives the cursor for
// them.
func cut[T any](rows []T, limit int, list, order string, id func(T) string) ([]T, *string) {
	if len(rows) <= limit {
		return rows, nil
	}
	rows = rows[:limit]
	next := cursor{list: list, order: order, after: id(rows[limit-1])}.String()
	return rows, &next
}
