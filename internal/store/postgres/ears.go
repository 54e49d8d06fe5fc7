package postgres

import (
	"context"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/store/fold"
)

// silence is how long the hearing connection may be quiet before it is asked
// whether it still lives.
const silence = 30 * time.Second

// ears hears what other processes committed, on a connection of its own. When
// that was lost, listeners are told that they missed something.
type ears struct {
	cfg  *pgconn.Config
	hub  *fold.Hub
	log  *slog.Logger
	self string // whose notes are our own
	quit context.CancelFunc
	done chan struct{}
}

// listen starts the goroutine once it hears.
func listen(ctx context.Context, cfg *pgconn.Config, self string, hub *fold.Hub, log *slog.Logger) (*ears, error) {
	e := &ears{hub: hub, log: log, self: self, done: make(chan struct{})}
	e.cfg = cfg.Copy()
	e.cfg.OnNotification = func(_ *pgconn.PgConn, n *pgconn.Notification) { e.heard(n) }
	c, err := e.open(ctx)
	if err != nil {
		return nil, err
	}
	running, quit := context.WithCancel(context.Background())
	e.quit = quit
	go e.run(running, c)
	return e, nil
}

// stop returns when the goroutine is gone.
func (e *ears) stop() {
	e.quit()
	<-e.done
}

func (e *ears) open(ctx context.Context) (*conn, error) {
	c, err := dial(ctx, e.cfg)
	if err != nil {
		return nil, err
	}
	if _, err := c.pg.Exec(ctx, "LISTEN "+channel).ReadAll(); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (e *ears) run(ctx context.Context, c *conn) {
	defer close(e.done)
	for {
		err := e.hear(ctx, c)
		c.close()
		if ctx.Err() != nil {
			return
		}
		e.log.Warn("lost the connection that hears PostgreSQL", "error", err)
		for try := 0; ; try++ {
			if c, err = e.open(ctx); err == nil {
				break
			}
			d := min(100*time.Millisecond<<min(try, 6), 5*time.Second)
			select {
			case <-ctx.Done():
				return
			case <-time.After(d):
			}
		}
		e.log.Info("hears PostgreSQL again")
		e.hub.Publish([]store.Note{{Lost: true}})
	}
}

// hear waits for notes until the connection fails.
func (e *ears) hear(ctx context.Context, c *conn) error {
	for {
		wait, cancel := context.WithTimeout(ctx, silence)
		err := c.pg.WaitForNotification(wait)
		cancel()
		if err == nil {
			continue
		}
		if ctx.Err() != nil || c.pg.IsClosed() {
			return err
		}
		ask, cancel := context.WithTimeout(ctx, connectLimit)
		err = c.pg.Ping(ask)
		cancel()
		if err != nil {
			return err
		}
	}
}

// heard passes on what other processes said. The sender stands in the note:
// the backend's number would be another's after a restart of the server.
func (e *ears) heard(n *pgconn.Notification) {
	sender, said, _ := strings.Cut(n.Payload, " ")
	if sender == e.self || n.Channel != channel {
		return
	}
	if note, times := parse(said); times > 0 {
		e.hub.Publish(slices.Repeat([]store.Note{note}, times))
	}
}

// parse reads what payloads wrote, and how often it is meant. What it does not
// know is a newer program's and means nothing here.
func parse(payload string) (n store.Note, times int) {
	f := strings.Fields(payload)
	switch {
	case len(f) == 2 && f[0] == "d":
		return store.Note{Session: f[1], Deleted: true}, 1
	case len(f) == 2 && f[0] == "t":
		return store.Note{Session: f[1], Taken: true}, 1
	case len(f) == 2 && f[0] == "q":
		return store.Note{Environment: f[1]}, 1
	case len(f) == 3 && f[0] == "q":
		more, err := strconv.ParseUint(f[2], 10, 16)
		if err == nil {
			return store.Note{Environment: f[1]}, int(more)
		}
	case len(f) >= 3 && f[0] == "s":
		emit, err := strconv.ParseInt(f[2], 10, 64)
		if err == nil {
			return store.Note{Session: f[1], Emit: emit, Turn: len(f) > 3 && f[3] == "t"}, 1
		}
	}
	return n, 0
}
