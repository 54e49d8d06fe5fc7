package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"syscall"
	"time"

	"github.com/berthdev/berth/internal/config"
)

// listen opens the TCP address strangers call.
func listen(addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if err == nil {
		return l, nil
	}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, &Error{Problem: "address " + addr + " is in use", Cure: "stop what listens there, or choose another with --addr (port 0 picks a free one)", Err: err}
	case errors.Is(err, syscall.EACCES):
		return nil, &Error{Problem: "address " + addr + " may not be used by this user", Cure: "choose a port above 1023 with --addr", Err: err}
	}
	return nil, &config.Error{Problem: fmt.Sprintf("cannot listen on %q: %v", addr, err), Cure: "give --addr as HOST:PORT, of this machine"}
}

// baseURL is the address under which a listener is reached from here.
func baseURL(l net.Listener) string {
	host, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return "http://" + l.Addr().String()
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, port)
}

// server serves one handler on several listeners.
type server struct {
	http *http.Server
	ends chan error
	n    int
}

// serve starts to serve h. The handler bounds bodies, writes and streams by
// itself; here are the limits on heads and idle connections.
func serve(h http.Handler, log *slog.Logger, listeners ...net.Listener) *server {
	s := &server{
		http: &http.Server{
			Handler:           h,
			ReadHeaderTimeout: 10 * time.Second,
			IdleTimeout:       2 * time.Minute,
			MaxHeaderBytes:    64 << 10,
			ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		},
		ends: make(chan error, len(listeners)),
		n:    len(listeners),
	}
	for _, l := range listeners {
		go func() { s.ends <- s.http.Serve(l) }()
	}
	return s
}

// stop takes no more connections, lets running requests end until ctx does,
// and then cuts them off. It returns when all listeners are gone.
func (s *server) stop(ctx context.Context) {
	if err := s.http.Shutdown(ctx); err != nil {
		s.http.Close()
	}
	for ; s.n > 0; s.n-- {
		<-s.ends
	}
}
