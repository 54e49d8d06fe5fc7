// Package api is the wire of the Managed Agents API as Berth speaks it: the
// requests, answers, events and errors that cross between clients, control
// plane and workers. It holds data only; both halves build on it and neither
// knows more about the other than what stands here.
//
// Decode requests with Decode, which refuses unknown fields and names the
// field that is wrong; decode answers with encoding/json, which ignores what
// it does not know, as every official client does.
//
// # History
//
//	2026-11-23  first version: environments, work, agents, sessions, every event
//	2026-11-26  memories, as a worker uses them
package api

import "time"

// Time is an instant on the wire: RFC 3339, UTC, fractions allowed.
type Time = time.Time

// Metadata is a small bag of strings: at most 16 pairs, keys of up to 64
// characters, values of up to 512.
type Metadata map[string]string

// MetadataPatch changes a Metadata: a null value (nil) deletes its key.
type MetadataPatch map[string]*string

// Deleted answers every delete: the id that is gone and what it was.
type Deleted struct {
	ID   string `json:"id"`
	Type string `json:"type"`
}
