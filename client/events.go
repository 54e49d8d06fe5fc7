package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/berthdev/berth/api"
)

// EventQuery selects part of a session's log; Order is "asc" (the default) or
// "desc". The times bound processed_at.
type EventQuery struct {
	PageQuery
	Order  string
	Types  []string
	After  time.Time
	Before time.Time
}

func (q EventQuery) values() url.Values {
	v := q.PageQuery.values()
	if q.Order != "" {
		v.Set("order", q.Order)
	}
	for _, t := range q.Types {
		v.Add("types[]", t)
	}
	if !q.After.IsZero() {
		v.Set("created_at[gte]", q.After.UTC().Format(time.RFC3339Nano))
	}
	if !q.Before.IsZero() {
		v.Set("created_at[lte]", q.Before.UTC().Format(time.RFC3339Nano))
	}
	return v
}

// Events lists a page of a session's log.
func (c *Client) Events(ctx context.Context, session string, q EventQuery) (*api.EventPage, error) {
	return must[api.EventPage](ctx, c, request{method: http.MethodGet, path: []string{"sessions", session, "events"}, query: q.values(), limit: maxPage})
}

// AllEvents reads the whole of a session's log that q selects, page by page.
func (c *Client) AllEvents(ctx context.Context, session string, q EventQuery) (api.EventList, error) {
	var all api.EventList
	for {
		p, err := c.Events(ctx, session, q)
		if err != nil {
			return nil, err
		}
		all = append(all, p.Data...)
		if p.NextPage == nil || *p.NextPage == "" || *p.NextPage == q.Page {
			return all, nil
		}
		q.Page = *p.NextPage
	}
}

// Send appends events to a session, all or none, and gives them back as they
// were stored. Ids and times of the given ones are not sent.
func (c *Client) Send(ctx context.Context, session string, events ...api.Event) (api.EventList, error) {
	raws := make([]json.RawMessage, len(events))
	for i, e := range events {
		raw, err := Outgoing(e)
		if err != nil {
			return nil, err
		}
		raws[i] = raw
	}
	return c.SendRaw(ctx, session, raws...)
}

// SendRaw is Send for events that are JSON already.
func (c *Client) SendRaw(ctx context.Context, session string, events ...json.RawMessage) (api.EventList, error) {
	sent, err := must[api.SentEvents](ctx, c, request{
		method: http.MethodPost, path: []string{"sessions", session, "events"}, body: api.SendEvents{Events: events},
	})
	if err != nil {
		return nil, err
	}
	return sent.Data, nil
}

// Append is SendRaw without the stored events.
func (c *Client) Append(ctx context.Context, session string, events ...json.RawMessage) error {
	_, err := must[struct{}](ctx, c, request{
		method: http.MethodPost, path: []string{"sessions", session, "events"}, body: api.SendEvents{Events: events},
	})
	return err
}

// SendOnce is SendRaw for what must not be there twice, such as a message,
// though an answer is lost and the send is tried again: key, visible ASCII of
// at most 255 characters, names it. A Berth control plane remembers the key for a
// day; one that does not know keys ignores it.
func (c *Client) SendOnce(ctx context.Context, session, key string, events ...json.RawMessage) (api.EventList, error) {
	return c.WithHeader("Idempotency-Key", key).SendRaw(ctx, session, events...)
}

// Outgoing is an event as a client sends it: without the members that only
// the server may set.
func Outgoing(e api.Event) (json.RawMessage, error) {
	raw, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("encode event: %w", err)
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(raw, &members); err != nil {
		return nil, fmt.Errorf("encode event: %w", err)
	}
	delete(members, "id")
	delete(members, "processed_at")
	return json.Marshal(members)
}
