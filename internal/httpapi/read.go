package httpapi

import (
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/plane"
)

const (
	maxBody  = 32 << 20
	maxDepth = 100 // nesting of JSON
)

// read is the request's body, bounded in size and time.
func (c *call) read() ([]byte, error) {
	if c.r.ContentLength > maxBody {
		c.w.Header().Set("Connection", "close") // nobody will read the rest
		return nil, &http.MaxBytesError{Limit: maxBody}
	}
	if c.r.Body == nil || c.r.ContentLength == 0 {
		return nil, nil
	}
	ctl := http.NewResponseController(c.w)
	if err := ctl.SetReadDeadline(time.Now().Add(c.s.cfg.BodyTimeout)); err == nil {
		defer ctl.SetReadDeadline(time.Time{})
	}
	var body []byte
	var err error
	rd := http.MaxBytesReader(c.w, c.r.Body, maxBody)
	if n := c.r.ContentLength; n > 0 && n <= 1<<20 {
		body = make([]byte, n)
		_, err = io.ReadFull(rd, body)
	} else {
		body, err = io.ReadAll(rd)
	}
	if _, large := errors.AsType[*http.MaxBytesError](err); err != nil && !large {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, plane.Errorf(plane.Invalid, "the request body did not arrive within %s", c.s.cfg.BodyTimeout)
		}
		return nil, plane.Wrap(plane.Invalid, err, "the request body could not be read to its end")
	}
	return body, err
}

// decode reads a JSON body into v, strictly unless the server is lenient.
func (c *call) decode(v any) error {
	body, err := c.read()
	if err != nil {
		return err
	}
	return c.decodeBytes(body, v)
}

// decodeOptional is decode for a body that may be absent.
func (c *call) decodeOptional(v any) error {
	body, err := c.read()
	if err != nil || len(body) == 0 {
		return err
	}
	return c.decodeBytes(body, v)
}

func (c *call) decodeBytes(body []byte, v any) error {
	if depth(body) > maxDepth {
		return plane.Errorf(plane.Invalid, "the request body is nested deeper than %d levels", maxDepth)
	}
	if c.s.cfg.Lenient {
		return api.DecodeLenient(body, v)
	}
	return api.Decode(body, v)
}

// depth is how deep JSON text nests; for text that is no JSON it is whatever
// its brackets say.
func depth(b []byte) int {
	deep, now, inString := 0, 0, false
	for i := 0; i < len(b); i++ {
		switch ch := b[i]; {
		case inString:
			switch ch {
			case '\\':
				i++
			case '"':
				inString = false
			}
		case ch == '"':
			inString = true
		case ch == '{' || ch == '[':
			now++
			deep = max(deep, now)
		case ch == '}' || ch == ']':
			now--
		}
	}
	return deep
}

// query is a request's query: both spellings of arrays, and no complaint
// about parameters it does not know.
type query struct{ v url.Values }

func (c *call) query() (query, error) {
	v, err := url.ParseQuery(c.r.URL.RawQuery)
	if err != nil {
		return query{}, plane.Errorf(plane.Invalid, "the query cannot be read")
	}
	return query{v}, nil
}

// text is a parameter's value, "" if it is not there.
func (q query) text(name string) (string, error) {
	v := q.v.Get(name)
	if !readable(v, 4096) {
		return "", plane.Errorf(plane.Invalid, "is not readable text").In(name)
	}
	return v, nil
}

// list is every value of an array parameter, spelled name or name[].
func (q query) list(name string, most int) ([]string, error) {
	all := append(append([]string(nil), q.v[name]...), q.v[name+"[]"]...)
	if len(all) > most {
		return nil, plane.Errorf(plane.Invalid, "has %d values; at most %d are allowed", len(all), most).In(name)
	}
	for _, v := range all {
		if !readable(v, 4096) {
			return nil, plane.Errorf(plane.Invalid, "is not readable text").In(name)
		}
	}
	return all, nil
}

// number is a whole number between least and most, def if it is not there.
func (q query) number(name string, def, least, most int) (int, error) {
	v := q.v.Get(name)
	if v == "" && !q.v.Has(name) {
		return def, nil
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		return 0, plane.Errorf(plane.Invalid, "%q is not a whole number", clip(v)).In(name)
	}
	if n < least || n > most {
		return 0, plane.Errorf(plane.Invalid, "is %d; it must be from %d to %d", n, least, most).In(name)
	}
	return n, nil
}

// truth is true or false, false if it is not there.
func (q query) truth(name string) (bool, error) {
	switch v := q.v.Get(name); v {
	case "", "false", "0":
		return false, nil
	case "true", "1":
		return true, nil
	default:
		return false, plane.Errorf(plane.Invalid, "%q is neither true nor false", clip(v)).In(name)
	}
}

// oneOf is a value out of a few, the first if it is not there.
func (q query) oneOf(name string, values ...string) (string, error) {
	v := q.v.Get(name)
	if v == "" {
		return values[0], nil
	}
	for _, ok := range values {
		if v == ok {
			return v, nil
		}
	}
	return "", plane.Errorf(plane.Invalid, "%q is not one of %v", clip(v), values).In(name)
}

// at is a time in RFC 3339, zero if it is not there.
func (q query) at(name string) (time.Time, error) {
	v := q.v.Get(name)
	if v == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339Nano, v)
	if err != nil {
		return time.Time{}, plane.Errorf(plane.Invalid, "%q is not a time in RFC 3339", clip(v)).In(name)
	}
	if t.IsZero() || t.Year() < 1 || t.Year() > 9999 {
		return time.Time{}, plane.Errorf(plane.Invalid, "%q is out of range", clip(v)).In(name)
	}
	return t.UTC(), nil
}

// wanted is an id to filter by, which must be of its kind; "" if not there.
func (q query) wanted(name, prefix string) (string, error) {
	v := q.v.Get(name)
	if v != "" && (!idText(v) || !strings.HasPrefix(v, prefix)) {
		return "", plane.Errorf(plane.Invalid, "%q is not such an id; those begin with %s", clip(v), prefix).In(name)
	}
	return v, nil
}

func hasNUL(s string) bool { return strings.IndexByte(s, 0) >= 0 }

// readable says that s is short text that every store can keep.
func readable(s string, most int) bool { return len(s) <= most && utf8.ValidString(s) && !hasNUL(s) }
