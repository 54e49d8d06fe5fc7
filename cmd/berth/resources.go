package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/client"
	"github.com/berthdev/berth/internal/config"
)

// What the client verbs share: reaching the server, walking a list, showing
// a resource.

// remote is embedded by every client verb.
type remote struct {
	config.Client `embed:""`
}

func (r remote) client() (*client.Client, error) {
	if err := r.NeedKey(); err != nil {
		return nil, err
	}
	return client.New(r.BaseURL, client.APIKey(r.APIKey.Reveal()), nil), nil
}

// listing is embedded by every list verb.
type listing struct {
	Limit int `help:"How many to show at most; 0 shows all." default:"20"`
}

// pageSize is what to ask for when want more rows are wanted.
func (l listing) pageSize(have int) int {
	if l.Limit <= 0 {
		return 100
	}
	return min(100, l.Limit-have)
}

func (l listing) full(have int) bool { return l.Limit > 0 && have >= l.Limit }

// call gives do a client and a context that ends with the first signal.
func call(t *term, r remote, do func(context.Context, *client.Client) error) error {
	cl, err := r.client()
	if err != nil {
		return err
	}
	ctx, _, end := t.signals()
	defer end()
	return do(ctx, cl)
}

// list walks a list up to the limit and prints it as a table, or as
// {"data": [...]}.
func list[T any](t *term, r remote, l listing, head []string,
	next func(context.Context, *client.Client, client.PageQuery) ([]T, *string, error), row func(T) []string) error {
	return call(t, r, func(ctx context.Context, cl *client.Client) error {
		rows, more := []T{}, false
		for page := ""; ; {
			data, nextPage, err := next(ctx, cl, client.PageQuery{Page: page, Limit: l.pageSize(len(rows))})
			if err != nil {
				return err
			}
			rows = append(rows, data...)
			more = nextPage != nil && *nextPage != ""
			if !more || l.full(len(rows)) || *nextPage == page {
				break
			}
			page = *nextPage
		}
		if r.JSON {
			return t.json(map[string]any{"data": rows})
		}
		return t.list(head, cells(rows, row), more)
	})
}

func cells[T any](rows []T, row func(T) []string) [][]string {
	out := make([][]string, len(rows))
	for i, v := range rows {
		out[i] = row(v)
	}
	return out
}

// page splits a page for list.
func page[T any](p *api.Page[T], err error) ([]T, *string, error) {
	if err != nil {
		return nil, nil, err
	}
	return p.Data, p.NextPage, nil
}

// answer does a call that answers with a resource and shows it: as JSON, or
// as lines of name and value.
func answer[T any](t *term, r remote, lines func(*T) [][2]string, do func(context.Context, *client.Client) (*T, error)) error {
	return call(t, r, func(ctx context.Context, cl *client.Client) error {
		v, err := do(ctx, cl)
		if err != nil {
			return err
		}
		if r.JSON {
			return t.json(v)
		}
		return t.fields(lines(v))
	})
}

// making is embedded by verbs that make a resource.
type making struct {
	remote
	Quiet bool `help:"Print its id alone." short:"q"`
}

// made is answer for a call that makes a resource; its first line is its id.
func made[T any](t *term, m making, lines func(*T) [][2]string, do func(context.Context, *client.Client) (*T, error)) error {
	if !m.Quiet {
		return answer(t, m.remote, lines, do)
	}
	return call(t, m.remote, func(ctx context.Context, cl *client.Client) error {
		v, err := do(ctx, cl)
		if err == nil {
			_, err = fmt.Fprintln(t.out, lines(v)[0][1])
		}
		return err
	})
}

// ended does a call that ends a resource, and says so.
func ended(t *term, r remote, id, what string, do func(*client.Client, context.Context, string) error) error {
	return call(t, r, func(ctx context.Context, cl *client.Client) error {
		if err := do(cl, ctx, id); err != nil {
			return err
		}
		if r.JSON {
			return t.json(api.Deleted{ID: id, Type: what})
		}
		_, err := fmt.Fprintln(t.out, id, what)
		return err
	})
}

func when(at time.Time) string { return at.Local().Format("2006-01-02 15:04:05") }

func whenever(at *time.Time) string {
	if at == nil {
		return ""
	}
	return when(*at)
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func pairs(m map[string]string) string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(m)) {
		fmt.Fprintf(&b, "%s=%s ", k, m[k])
	}
	return strings.TrimSpace(b.String())
}

// patch makes a metadata patch: an empty value deletes its key.
func patch(m map[string]string) api.Optional[api.MetadataPatch] {
	if len(m) == 0 {
		return api.Optional[api.MetadataPatch]{}
	}
	p := api.MetadataPatch{}
	for k, v := range m {
		if v == "" {
			p[k] = nil
		} else {
			p[k] = &v
		}
	}
	return api.Some(p)
}

// clearable makes an optional field of a flag: absent, null for "" or a value.
func clearable(s *string) api.Optional[string] {
	switch {
	case s == nil:
		return api.Optional[string]{}
	case *s == "":
		return api.Null[string]()
	}
	return api.Some(*s)
}

// maxInputFile bounds a request that is read from a file.
const maxInputFile = 32 << 20

// readInput reads a file, or standard input for "-".
func readInput(t *term, name string) ([]byte, error) {
	in := t.in
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, &config.Error{Problem: err.Error(), Cure: "name a file that can be read, or - for standard input"}
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, maxInputFile+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxInputFile {
		return nil, &config.Error{Problem: called(name) + " is larger than 32 MiB", Cure: "make it smaller"}
	}
	return b, nil
}

// called is an input file for people.
func called(name string) string {
	if name == "-" {
		return "standard input"
	}
	return name
}

// decodeInput reads a file of JSON into v, strictly.
func decodeInput(t *term, name string, v any) error {
	b, err := readInput(t, name)
	if err != nil {
		return err
	}
	if err := api.Decode(b, v); err != nil {
		return &config.Error{Problem: called(name) + ": " + err.Error(), Cure: "correct it"}
	}
	return nil
}

// rawEvents reads one event, an array of them or {"events": [...]}.
func rawEvents(name string, b []byte) ([]json.RawMessage, error) {
	b = bytes.TrimSpace(b)
	var list []json.RawMessage
	var err error
	if bytes.HasPrefix(b, []byte("[")) {
		err = json.Unmarshal(b, &list)
	} else {
		var body struct {
			Events []json.RawMessage `json:"events"`
		}
		if err = json.Unmarshal(b, &body); err == nil && body.Events != nil {
			list = body.Events
		} else if err == nil {
			list = []json.RawMessage{b}
		}
	}
	if err != nil {
		return nil, &config.Error{Problem: called(name) + ": " + err.Error(), Cure: "give an event, an array of events or {\"events\": [...]} as JSON"}
	}
	return list, nil
}
