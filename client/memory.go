package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"github.com/berthdev/berth/api"
)

// MemoryView says how much of memories a server answers.
type MemoryView string

const (
	MemoryBasic MemoryView = "basic" // no content
	MemoryFull  MemoryView = "full"
)

// MemoryQuery asks for one page of a store's memories.
type MemoryQuery struct {
	PageQuery            // Limit is 100 at most, 20 in the full view
	View      MemoryView // "" is basic
	Prefix    string     // ends in a slash; "" is all
	Depth     int        // 0 is all below, 1 what is directly there
}

// memoryHeader is what the memory endpoints are asked under.
var memoryHeader = http.Header{"Anthropic-Beta": {"agent-memory-2026-07-22"}}

func memories(method, store string, more ...string) request {
	return request{method: method, path: append([]string{"memory_stores", store, "memories"}, more...), header: memoryHeader}
}

// Memories lists a store's memories. A list may hold prefixes, see api.Memory.
func (c *Client) Memories(ctx context.Context, store string, q MemoryQuery) (*api.Page[api.Memory], error) {
	r := memories(http.MethodGet, store)
	r.query = q.values()
	if q.View != "" {
		r.query.Set("view", string(q.View))
	}
	if q.Prefix != "" {
		r.query.Set("path_prefix", q.Prefix)
	}
	if q.Depth > 0 {
		r.query.Set("depth", strconv.Itoa(q.Depth))
	}
	return must[api.Page[api.Memory]](ctx, c, r)
}

// Memory gets a memory with its content.
func (c *Client) Memory(ctx context.Context, store, id string) (*api.Memory, error) {
	r := memories(http.MethodGet, store, id)
	r.query = url.Values{"view": {string(MemoryFull)}}
	return must[api.Memory](ctx, c, r)
}

// CreateMemory makes a memory; a path that is taken is a 409.
func (c *Client) CreateMemory(ctx context.Context, store string, m api.CreateMemory) (*api.Memory, error) {
	r := memories(http.MethodPost, store)
	r.body = m
	return must[api.Memory](ctx, c, r)
}

// UpdateMemory changes a memory; a precondition that does not hold is a 409.
func (c *Client) UpdateMemory(ctx context.Context, store, id string, u api.UpdateMemory) (*api.Memory, error) {
	r := memories(http.MethodPost, store, id)
	r.body = u
	return must[api.Memory](ctx, c, r)
}

// DeleteMemory deletes a memory; with a SHA-256 of its content (hex) only as
// long as it has that, else it is a 409.
func (c *Client) DeleteMemory(ctx context.Context, store, id, expected string) error {
	r := memories(http.MethodDelete, store, id)
	if expected != "" {
		r.query = url.Values{"expected_content_sha256": {expected}}
	}
	_, err := c.call(ctx, r, &api.Deleted{})
	return err
}
