package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/berthdev/berth/internal/plane"
)

// call is one request on its way: what the handlers need and nothing they
// keep.
type call struct {
	s   *server
	w   *answer
	r   *http.Request
	id  string // request id
	who plane.Identity
}

func (c *call) ctx() context.Context { return c.r.Context() }

// path is a segment of the path by its name in the route.
func (c *call) path(name string) string { return c.r.PathValue(name) }

// answer notes whether anything was sent.
type answer struct {
	http.ResponseWriter
	status int
}

func (a *answer) WriteHeader(status int) {
	if a.status == 0 {
		a.status = status
	}
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(p []byte) (int, error) {
	if a.status == 0 {
		a.status = http.StatusOK
	}
	return a.ResponseWriter.Write(p)
}

func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// ServeHTTP finds the route. What the mux itself would answer in plain text
// (not found, method not allowed, clean the path) becomes an envelope.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	clean := path.Clean(r.URL.EscapedPath()) == r.URL.EscapedPath()
	if _, pattern := s.mux.Handler(r); pattern != "" && clean {
		s.mux.ServeHTTP(w, r)
		return
	}
	s.noRoute(w, r, clean)
}

// noRoute answers what no route does.
//
//go:noinline
func (s *server) noRoute(w http.ResponseWriter, r *http.Request, clean bool) {
	c := &call{s: s, w: &answer{ResponseWriter: w}, r: r, id: plane.NewID(plane.PrefixRequest)}
	c.begin()
	if allow := s.methods(r); allow != "" && clean {
		w.Header().Set("Allow", allow)
		s.fail(c, errMethod(r.Method, allow))
		return
	}
	s.fail(c, plane.Errorf(plane.NotFound, "there is no %s %s here", r.Method, clip(r.URL.Path)))
}

// methods are those that the path has, "" for a path that is no route.
func (s *server) methods(r *http.Request) string {
	allow := ""
	for _, m := range []string{http.MethodGet, http.MethodPost, http.MethodDelete, http.MethodPut, http.MethodPatch} {
		probe := r.Clone(r.Context())
		probe.Method = m
		if _, pattern := s.mux.Handler(probe); pattern != "" {
			if allow != "" {
				allow += ", "
			}
			allow += m
		}
	}
	return allow
}

// begin sets what every answer carries.
func (c *call) begin() {
	h := c.w.Header()
	h.Set("Request-Id", c.id)
	h.Set("Berth-Version", c.s.cfg.Version)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
}

// handler runs a route: identify, admit, serve, answer.
func (s *server) handler(rt route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := &call{s: s, w: &answer{ResponseWriter: w}, r: r, id: plane.NewID(plane.PrefixRequest)}
		c.begin()
		defer func() {
			v := recover()
			if v == nil {
				return
			}
			if v == http.ErrAbortHandler {
				panic(v)
			}
			s.log.Error("httpapi: panic", "request", c.id, "route", rt.pattern, "panic", v, "stack", string(debug.Stack()))
			if c.w.status != 0 {
				panic(http.ErrAbortHandler) // half an answer must not look whole
			}
			s.send(c, http.StatusInternalServerError, internalError(c.id))
		}()
		out, err := s.run(c, rt)
		switch {
		case err != nil && c.w.status != 0:
			s.log.Warn("httpapi: failed after the answer began", "request", c.id, "route", rt.pattern, "error", err)
			panic(http.ErrAbortHandler)
		case err != nil:
			s.fail(c, err)
		case c.w.status == 0:
			s.answer(c, out)
		}
	})
}

func (s *server) run(c *call, rt route) (any, error) {
	if c.r.Method == http.MethodHead { // matches GET, and a poll's effect must not be thrown away
		allow := s.methods(c.r)
		c.w.Header().Set("Allow", allow)
		return nil, errMethod(c.r.Method, allow)
	}
	if err := s.admit(c, rt); err != nil {
		return nil, err
	}
	return rt.serve(c)
}

// answer sends v as JSON with status 200; json.RawMessage goes as it is.
func (s *server) answer(c *call, v any) {
	body, ok := v.(json.RawMessage)
	if !ok {
		var err error
		if body, err = json.Marshal(v); err != nil {
			s.fail(c, fmt.Errorf("encode the answer: %w", err))
			return
		}
	}
	s.send(c, http.StatusOK, body)
}

// send writes a whole JSON answer. A client that does not take it in time is
// cut off.
func (s *server) send(c *call, status int, body []byte) {
	h := c.w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	if err := s.patience(http.NewResponseController(c.w), len(body)); err != nil {
		panic(http.ErrAbortHandler) // the connection is gone
	}
	c.w.WriteHeader(status)
	if c.r.Method != http.MethodHead {
		c.w.Write(body) // a failed write is the client's loss: the connection is closed
	}
}

// patience gives the next write of n bytes its time. 64 KiB a second is the
// slowest client that is served.
func (s *server) patience(ctl *http.ResponseController, n int) error {
	err := ctl.SetWriteDeadline(time.Now().Add(s.cfg.WriteTimeout + time.Duration(n>>16)*time.Second))
	if errors.Is(err, http.ErrNotSupported) {
		return nil
	}
	return err
}

// null is the JSON null that says "no work".
var null = json.RawMessage("null")

func clip(s string) string {
	if len(s) > 100 {
		return s[:100] + "..."
	}
	return s
}
