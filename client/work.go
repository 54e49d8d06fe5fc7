package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/berthdev/berth/api"
)

// Poll says how to ask for work.
type Poll struct {
	Block            time.Duration // 1 to 999 ms holds the call open, 0 asks and returns
	ReclaimOlderThan time.Duration // 0 leaves it to the server (5 s)
	WorkerID         string        // Anthropic-Worker-ID
	// Heard, when set, is called with the header of an answer that was accepted.
	Heard func(http.Header)
}

// Poll asks an environment's queue for an item; nil is no work.
func (c *Client) Poll(ctx context.Context, environment string, p Poll) (*api.Work, error) {
	r := request{method: http.MethodGet, path: []string{"environments", environment, "work", "poll"}, query: url.Values{}, heard: p.Heard}
	if p.Block > 0 {
		r.query.Set("block_ms", strconv.FormatInt(p.Block.Milliseconds(), 10))
	}
	if p.ReclaimOlderThan > 0 {
		r.query.Set("reclaim_older_than_ms", strconv.FormatInt(p.ReclaimOlderThan.Milliseconds(), 10))
	}
	if p.WorkerID != "" {
		r.header = http.Header{"Anthropic-Worker-Id": {p.WorkerID}}
	}
	w := &api.Work{}
	if ok, err := c.call(ctx, r, w); err != nil || !ok || w.ID == "" {
		return nil, err
	}
	return w, nil
}

// Ack takes a polled item off the queue.
func (c *Client) Ack(ctx context.Context, environment, work string) (*api.Work, error) {
	return must[api.Work](ctx, c, request{method: http.MethodPost, path: []string{"environments", environment, "work", work, "ack"}})
}

// Beat keeps an acked item's lease. expected is api.NoHeartbeat for the first
// beat and the last answer's LastHeartbeat after it, "" to beat
// unconditionally; ttl is a wish, 0 for none. A lost lease is an *Error with
// status 412, whose Lease tells the state.
func (c *Client) Beat(ctx context.Context, environment, work, expected string, ttl time.Duration) (*api.Heartbeat, error) {
	q := url.Values{}
	if expected != "" {
		q.Set("expected_last_heartbeat", expected)
	}
	if ttl > 0 {
		q.Set("desired_ttl_seconds", strconv.Itoa(int(ttl.Seconds())))
	}
	return must[api.Heartbeat](ctx, c, request{method: http.MethodPost, path: []string{"environments", environment, "work", work, "heartbeat"}, query: q})
}

// Stop ends an item: gracefully, by asking its holder, or by force. The item
// is nil when the server answers without one.
func (c *Client) Stop(ctx context.Context, environment, work string, force bool) (*api.Work, error) {
	w := &api.Work{}
	ok, err := c.call(ctx, request{
		method: http.MethodPost, path: []string{"environments", environment, "work", work, "stop"}, body: api.StopWork{Force: force},
	}, w)
	if err != nil || !ok {
		return nil, err
	}
	return w, nil
}

// Work gets an item.
func (c *Client) Work(ctx context.Context, environment, work string) (*api.Work, error) {
	return must[api.Work](ctx, c, request{method: http.MethodGet, path: []string{"environments", environment, "work", work}})
}

// WorkItems lists a page of an environment's items, newest first.
func (c *Client) WorkItems(ctx context.Context, environment string, p PageQuery) (*api.Page[api.Work], error) {
	return must[api.Page[api.Work]](ctx, c, request{method: http.MethodGet, path: []string{"environments", environment, "work"}, query: p.values()})
}

// UpdateWork changes an item's metadata.
func (c *Client) UpdateWork(ctx context.Context, environment, work string, patch api.MetadataPatch) (*api.Work, error) {
	return must[api.Work](ctx, c, request{
		method: http.MethodPost, path: []string{"environments", environment, "work", work}, body: api.UpdateWork{Metadata: patch},
	})
}

// WorkStats counts an environment's queue.
func (c *Client) WorkStats(ctx context.Context, environment string) (*api.WorkStats, error) {
	return must[api.WorkStats](ctx, c, request{method: http.MethodGet, path: []string{"environments", environment, "work", "stats"}})
}
