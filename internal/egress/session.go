package egress

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// The names in a session's folder, which drivers show inside at Inside.
const (
	SocketName = "proxy.sock"
	CAName     = "ca.pem"     // the authority for intercepted hosts
	BundleName = "bundle.pem" // it, and whom this machine trusts
)

const (
	// maxConns is how many connections of one session are served at once;
	// further ones wait.
	maxConns = 128
	// headTime bounds what comes before a request is understood, idleTime a
	// connection on which nothing moves, keepTime one between two requests.
	headTime = 30 * time.Second
	idleTime = 10 * time.Minute
	keepTime = 2 * time.Minute
	// answerTime is how long a host may think about a request.
	answerTime = 10 * time.Minute
)

// Session is one session's proxy. Safe for concurrent use.
type Session struct {
	proxy *Proxy
	table *table
	dir   string
	root  *os.Root
	ca    bool

	name      atomic.Pointer[string]
	listener  *net.UnixListener
	transport *http.Transport
	ctx       context.Context // ends with the session
	cancel    context.CancelFunc
	conns     sync.WaitGroup
	room      chan struct{}
	spent     atomic.Int64
	lines     budget

	closing sync.Once
	closed  error
}

// Session opens a session's proxy in dir, which is made when it is missing
// and must be for this session alone; the parent keeps other users of the
// machine out. What an earlier process left there is replaced: a sandbox that
// has dir in view sees the new socket at once.
func (p *Proxy) Session(name, dir string, rules Rules) (_ *Session, err error) {
	table, err := compile(rules)
	if err != nil {
		return nil, fmt.Errorf("egress: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("egress: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("egress: %w", err)
	}
	s := &Session{proxy: p, table: table, dir: dir, root: root, room: make(chan struct{}, maxConns)}
	defer func() {
		if err != nil {
			s.clear()
		}
	}()
	s.name.Store(&name)
	if err := root.Chmod(".", 0o755); err != nil { // whatever the umask
		return nil, fmt.Errorf("egress: %w", err)
	}
	if len(table.secrets) > 0 {
		if err := s.writeCA(); err != nil {
			return nil, fmt.Errorf("egress: %w", err)
		}
	}
	if s.listener, err = s.listen(); err != nil {
		return nil, fmt.Errorf("egress: %w", err)
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.transport = &http.Transport{
		DialContext:            s.dialPlain,
		TLSClientConfig:        p.towards(),
		TLSHandshakeTimeout:    headTime,
		ResponseHeaderTimeout:  answerTime,
		MaxResponseHeaderBytes: maxHead,
		MaxIdleConns:           32,
		MaxIdleConnsPerHost:    16,
		IdleConnTimeout:        30 * time.Second,
		DisableCompression:     true,
		ForceAttemptHTTP2:      false,
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		s.listener.Close()
		return nil, errors.New("egress: the proxy is closed")
	}
	p.open[s] = true
	s.conns.Go(s.accept)
	return s, nil
}

// Socket is the proxy's unix socket on the host.
func (s *Session) Socket() string { return filepath.Join(s.dir, SocketName) }

// CA is the authority's PEM file on the host, "" where no host is intercepted.
func (s *Session) CA() string {
	if !s.ca {
		return ""
	}
	return filepath.Join(s.dir, CAName)
}

// Bundle is a PEM file on the host with the authority and those that this
// machine trusts, "" where no host is intercepted.
func (s *Session) Bundle() string {
	if !s.ca {
		return ""
	}
	return filepath.Join(s.dir, BundleName)
}

// Assign gives the proxy of a sandbox that was started for nobody to a
// session. Its folder may have been renamed.
func (s *Session) Assign(name string) { s.name.Store(&name) }

// listen makes the socket. The folder's descriptor stands for its path, which
// may be longer than a socket's name.
func (s *Session) listen() (*net.UnixListener, error) {
	if err := s.root.Remove(SocketName); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	path := s.Socket()
	if runtime.GOOS == "linux" {
		d, err := s.root.Open(".")
		if err != nil {
			return nil, err
		}
		defer d.Close()
		path = fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), SocketName)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // by then the path may be another's
	// The session's user is no user of this machine that could be named.
	if err := s.root.Chmod(SocketName, 0o666); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

func (s *Session) writeCA() error {
	pem, err := s.proxy.ca.certificate(s.table)
	if err != nil {
		return err
	}
	roots, err := s.proxy.rootsPEM()
	if err != nil {
		return err
	}
	bundle := append(append(append([]byte(nil), roots...), '\n'), pem...)
	for name, b := range map[string][]byte{CAName: pem, BundleName: bundle} {
		// A new file in the old one's place: whoever reads that reads all of it.
		if err := s.root.WriteFile(name+".new", b, 0o644); err != nil {
			return err
		}
		if err := s.root.Chmod(name+".new", 0o644); err != nil {
			return err
		}
		if err := s.root.Rename(name+".new", name); err != nil {
			return err
		}
	}
	s.ca = true
	return nil
}

// Close ends every connection, waits for them, and removes what the session
// has in its folder. Twice is fine.
func (s *Session) Close() error {
	s.closing.Do(func() {
		s.proxy.mu.Lock()
		delete(s.proxy.open, s)
		s.proxy.mu.Unlock()
		s.cancel()
		s.closed = s.listener.Close()
		s.conns.Wait()
		s.transport.CloseIdleConnections()
		s.clear()
	})
	return s.closed
}

func (s *Session) clear() {
	for _, name := range []string{SocketName, CAName, BundleName} {
		_ = s.root.Remove(name) // the folder goes with the sandbox's
	}
	s.root.Close()
}

// accept takes connections until the listener closes.
func (s *Session) accept() {
	for {
		select {
		case s.room <- struct{}{}:
		case <-s.ctx.Done():
			return
		}
		c, err := s.listener.Accept()
		if err != nil {
			<-s.room
			if s.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			s.proxy.log.Warn("a session's proxy cannot take a connection", "session", *s.name.Load(), "err", err)
			select {
			case <-time.After(100 * time.Millisecond): // no descriptors are left, most likely
			case <-s.ctx.Done():
			}
			continue
		}
		s.proxy.stats.connections.Add(1)
		s.conns.Go(func() {
			defer func() { <-s.room }()
			defer c.Close()
			stop := context.AfterFunc(s.ctx, func() { c.Close() })
			defer stop()
			s.serve(c)
		})
	}
}

// serve tells SOCKS from HTTP.
func (s *Session) serve(c net.Conn) {
	cl := newClient(c)
	defer cl.release()
	cl.within(headTime)
	first, err := cl.br.Peek(1)
	if err != nil {
		return
	}
	switch first[0] {
	case socksVersion:
		s.socks(cl)
	default:
		s.http(cl, nil)
	}
}

// spend takes bytes off what the session may move.
func (s *Session) spend(n int) bool {
	most := s.table.bytes
	return most <= 0 || s.spent.Add(int64(n)) <= most
}

// tell counts, reports and logs a decision.
func (s *Session) tell(d Decision) {
	d.Session = *s.name.Load()
	c := &s.proxy.stats
	level, word := slog.LevelInfo, "egress allowed"
	switch d.Verdict {
	case Allowed:
		c.allowed.Add(1)
	case Refused:
		c.refused.Add(1)
		level, word = slog.LevelWarn, "egress refused"
	case Failed:
		c.failed.Add(1)
		level, word = slog.LevelWarn, "egress failed"
	}
	if s.proxy.cfg.Observe != nil {
		s.proxy.cfg.Observe(d)
	}
	if !s.proxy.log.Enabled(s.ctx, level) {
		return
	}
	left, ok := s.lines.take(time.Now())
	if !ok {
		return
	}
	attrs := make([]slog.Attr, 0, 9)
	attrs = append(attrs, slog.String("session", d.Session), slog.String("via", d.Via), slog.String("host", d.Host), slog.Int("port", int(d.Port)))
	if d.Addr.IsValid() {
		attrs = append(attrs, slog.String("address", d.Addr.String()))
	}
	if d.Rule != "" {
		attrs = append(attrs, slog.String("rule", d.Rule))
	}
	if d.Reason != "" {
		attrs = append(attrs, slog.String("reason", d.Reason))
	}
	if len(d.Secrets) > 0 {
		attrs = append(attrs, slog.Any("secrets", d.Secrets))
	}
	if left > 0 {
		attrs = append(attrs, slog.Int("left_out", left))
	}
	s.proxy.log.LogAttrs(s.ctx, level, word, attrs...)
}

// decision begins a Decision about a target.
func decision(via string, t Target) Decision {
	return Decision{Via: via, Host: t.Name(), Port: t.Port}
}

// outcome puts an error into a decision.
func (d Decision) outcome(err error) Decision {
	var no *Refusal
	var bad *BadHost
	switch {
	case errors.As(err, &no):
		d.Verdict, d.Reason = Refused, no.Reason
	case errors.As(err, &bad):
		d.Verdict, d.Reason, d.Host = Refused, bad.Why.Error(), quoted(bad.Text)
	default:
		d.Verdict, d.Reason = Failed, plainly(err)
		var gone *unreachable
		if errors.As(err, &gone) {
			d.Reason = gone.why
		}
	}
	return d
}

// addrOf is whom a connection of dial goes to.
func addrOf(c net.Conn) netip.Addr {
	if m, ok := c.(*metered); ok {
		return m.addr
	}
	return netip.Addr{}
}

// budget bounds a session's lines in the log: many at once, few in the long
// run.
type budget struct {
	mu   sync.Mutex
	used float64
	at   time.Time
	left int // lines left out since the last one
}

const (
	linesAtOnce    = 2000
	linesPerSecond = 20
)

// take asks for a line; left is how many were left out before it.
func (b *budget) take(now time.Time) (left int, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used = max(0, b.used-now.Sub(b.at).Seconds()*linesPerSecond)
	b.at = now
	if b.used+1 > linesAtOnce {
		b.left++
		return 0, false
	}
	b.used++
	left, b.left = b.left, 0
	return left, true
}

// client is a session's connection, bounded in time.
type client struct {
	conn net.Conn
	br   *bufio.Reader
	bw   *bufio.Writer

	until time.Time // of the next reads; zero: idleTime each
}

// maxHead bounds the head of a request and of an answer.
const maxHead = 32 << 10

var (
	readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, maxHead) }}
	writers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, 8<<10) }}
)

func newClient(c net.Conn) *client {
	cl := &client{conn: c, br: readers.Get().(*bufio.Reader), bw: writers.Get().(*bufio.Writer)}
	cl.br.Reset((*timed)(cl))
	cl.bw.Reset((*timed)(cl))
	return cl
}

// release gives the buffers back; nobody may use the client any more.
func (c *client) release() {
	c.br.Reset(nil)
	c.bw.Reset(nil)
	readers.Put(c.br)
	writers.Put(c.bw)
}

// within bounds all that is read from now on together; 0 bounds each read.
func (c *client) within(d time.Duration) {
	c.until = time.Time{}
	if d > 0 {
		c.until = time.Now().Add(d)
	}
}

// timed is a client's connection, with its deadlines.
type timed client

func (c *timed) Read(b []byte) (int, error) {
	until := c.until
	if until.IsZero() {
		until = time.Now().Add(idleTime)
	}
	if err := c.conn.SetReadDeadline(until); err != nil {
		return 0, err
	}
	return c.conn.Read(b)
}

func (c *timed) Write(b []byte) (int, error) {
	if err := c.conn.SetWriteDeadline(time.Now().Add(idleTime)); err != nil {
		return 0, err
	}
	return c.conn.Write(b)
}
