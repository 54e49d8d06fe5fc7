package metrics

import (
	"context"
	"encoding/json"
	"html/template"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/berthdev/berth/worker"
)

// Server answers /metrics, /healthz, /readyz and the status page at /.
type Server struct {
	counts *Worker
	source Source
	http   *http.Server
	gone   chan struct{}
}

// Serve takes over the listener until Close. source is asked with each
// request.
func Serve(l net.Listener, counts *Worker, source Source, log *slog.Logger) *Server {
	s := &Server{counts: counts, source: source, gone: make(chan struct{})}
	s.http = &http.Server{
		Handler: s.handler(), ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second,
		IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
	}
	go func() {
		defer close(s.gone)
		_ = s.http.Serve(l) // it ends with Close
	}()
	return s
}

// Close lets running answers end, for a second at most. Twice is fine.
func (s *Server) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = s.http.Close()
	}
	<-s.gone
	return err
}

func (s *Server) handler() http.Handler {
	now := prometheus.NewRegistry()
	now.MustRegister(s.source)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(prometheus.Gatherers{s.counts.registry, now},
		promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 5 * time.Second}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "alive\n") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if why := s.unready(); why != "" {
			http.Error(w, why, http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, "ready\n")
	})
	mux.HandleFunc("GET /{$}", s.status)
	return mux
}

func (s *Server) unready() string {
	return s.counts.unready(s.source.Woken || len(s.source.attached()) > 0, time.Now())
}

// view is the status page's matter.
type view struct {
	Ready    bool   `json:"ready"`
	Unready  string `json:"unready_because,omitempty"`
	Sessions []slot `json:"sessions"`
}

type slot struct {
	Session string    `json:"session"`
	Work    string    `json:"work"`
	State   string    `json:"state"`
	Tool    string    `json:"tool,omitempty"`
	Since   time.Time `json:"since"`
	Claimed time.Time `json:"claimed"`
}

func (s *Server) status(w http.ResponseWriter, r *http.Request) {
	v := view{Unready: s.unready(), Sessions: []slot{}}
	v.Ready = v.Unready == ""
	for _, a := range s.source.attached() {
		v.Sessions = append(v.Sessions, slotOf(a))
	}
	w.Header().Set("Cache-Control", "no-store")
	if r.URL.Query().Get("format") == "json" {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(v) // the reader has gone
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
	_ = page.Execute(w, v)
}

func slotOf(a worker.Attached) slot {
	return slot{a.SessionID, a.WorkID, string(a.State), a.Tool, a.Since.UTC().Round(time.Millisecond), a.Claimed.UTC().Round(time.Millisecond)}
}

var page = template.Must(template.New("status").Parse(`<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Berth worker</title>
<style>body{font:15px system-ui;margin:2em}td,th{text-align:left;padding:.2em 1.2em .2em 0}</style>
<h1>Berth worker</h1>
<p>{{if .Ready}}Ready.{{else}}Not ready: {{.Unready}}.{{end}} {{len .Sessions}} attached. <a href="/?format=json">JSON</a> · <a href="/metrics">metrics</a></p>
<table><tr><th>Session<th>Work<th>Doing<th>Since<th>Claimed</tr>
{{range .Sessions}}<tr><td>{{.Session}}<td>{{.Work}}<td>{{.State}} {{.Tool}}<td>{{.Since}}<td>{{.Claimed}}</tr>
{{end}}</table></html>
`))
