// Package record turns the control plane's records into the values of rows
// and back. Both engines keep the same columns in the same order, which the
// comment of each pair of functions names; how a time or a flag is stored is
// the engine's business, behind Row and the kinds of values below.
//
// A value is a string, []byte, int64, bool, time.Time (zero for none) or
// *time.Time (nil for none).
package record

import (
	"encoding/json"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/plane"
)

// Row reads the columns of one row from left to right. What it gives may be
// kept. NULL reads as the zero value.
type Row interface {
	Text() string
	Bytes() []byte
	Int() int64
	Bool() bool
	Time() time.Time
	TimePtr() *time.Time
}

// text marshals v, which is data that always can be.
func text(v any) (string, error) {
	b, err := json.Marshal(v)
	return string(b), err
}

func hash(b []byte) (h [32]byte) {
	copy(h[:], b)
	return h
}

// hashBytes is nil for no hash at all.
func hashBytes(h [32]byte) []byte {
	if h == ([32]byte{}) {
		return nil
	}
	return h[:]
}

// raw undoes what encoding/json makes of a nil RawMessage.
func raw(m json.RawMessage) json.RawMessage {
	if string(m) == "null" {
		return nil
	}
	return m
}

// Key: id, kind, environment_id, name, hash, created_at, last_used_at,
// revoked_at.
func Key(r Row) (plane.Key, error) {
	return plane.Key{
		ID: r.Text(), Kind: plane.KeyKind(r.Text()), EnvironmentID: r.Text(), Name: r.Text(), Hash: hash(r.Bytes()),
		CreatedAt: r.Time(), LastUsedAt: r.TimePtr(), RevokedAt: r.TimePtr(),
	}, nil
}

func KeyValues(k plane.Key) []any {
	return []any{k.ID, string(k.Kind), k.EnvironmentID, k.Name, k.Hash[:], k.CreatedAt, k.LastUsedAt, k.RevokedAt}
}

// Environment: body.
func Environment(r Row) (e plane.Environment, err error) {
	e.Environment, err = environments.decode(r.Text(), func(e *api.Environment) {
		e.Config.Networking, e.Config.Packages = raw(e.Config.Networking), raw(e.Config.Packages)
	})
	return e, err
}

// EnvironmentValues: id, name, archived_at, body.
func EnvironmentValues(e plane.Environment) ([]any, error) {
	body, err := text(e.Environment)
	return []any{e.ID, e.Name, e.ArchivedAt, body}, err
}

// AgentVersion: body.
func AgentVersion(r Row) (a plane.AgentVersion, err error) {
	err = json.Unmarshal(r.Bytes(), &a.Agent)
	a.Multiagent = raw(a.Multiagent)
	return a, err
}

// AgentVersionValues: id, version, created_at, archived_at, body.
func AgentVersionValues(a plane.AgentVersion) ([]any, error) {
	body, err := text(a.Agent)
	return []any{a.ID, int64(a.Version), a.CreatedAt, a.ArchivedAt, body}, err
}

// Event: session_id, id, type, pos, emit, processed_at, body.
func Event(r Row) (plane.StoredEvent, error) {
	return plane.StoredEvent{
		SessionID: r.Text(), ID: r.Text(), Type: r.Text(), Pos: r.Int(), Emit: r.Int(), ProcessedAt: r.TimePtr(), Body: r.Bytes(),
	}, nil
}

func EventValues(e plane.StoredEvent) []any {
	return []any{e.SessionID, e.ID, e.Type, e.Pos, e.Emit, e.ProcessedAt, string(e.Body)}
}

// Call: session_id, id, kind, name, state, pos, request_id, answer_id,
// answer_digest.
func Call(r Row) (plane.Call, error) {
	return plane.Call{
		SessionID: r.Text(), ID: r.Text(), Kind: plane.CallKind(r.Text()), Name: r.Text(), State: plane.CallState(r.Text()),
		Pos: r.Int(), RequestID: r.Text(), AnswerID: r.Text(), AnswerDigest: hash(r.Bytes()),
	}, nil
}

func CallValues(c plane.Call) []any {
	return []any{c.SessionID, c.ID, string(c.Kind), c.Name, string(c.State), c.Pos, c.RequestID, c.AnswerID, hashBytes(c.AnswerDigest)}
}

// Replay: session_id, request_id, pos, provider, content, call_ids.
func Replay(r Row) (plane.Replay, error) {
	p := plane.Replay{SessionID: r.Text(), RequestID: r.Text(), Pos: r.Int(), Provider: r.Text(), Content: r.Bytes()}
	err := json.Unmarshal(r.Bytes(), &p.CallIDs)
	return p, err
}

func ReplayValues(p plane.Replay) ([]any, error) {
	ids, err := text(p.CallIDs)
	return []any{p.SessionID, p.RequestID, p.Pos, p.Provider, string(p.Content), ids}, err
}

// Send: session_id, name, digest, event_ids, at.
func Send(r Row) (plane.Send, error) {
	s := plane.Send{SessionID: r.Text(), Key: r.Text(), Digest: hash(r.Bytes())}
	err := json.Unmarshal(r.Bytes(), &s.EventIDs)
	s.At = r.Time()
	return s, err
}

func SendValues(s plane.Send) ([]any, error) {
	ids, err := text(s.EventIDs)
	return []any{s.SessionID, s.Key, hashBytes(s.Digest), ids, s.At}, err
}

// ID: id.
func ID(r Row) (string, error) { return r.Text(), nil }

// Int: one number.
func Int(r Row) (int64, error) { return r.Int(), nil }

// Time: one time.
func Time(r Row) (time.Time, error) { return r.Time(), nil }

// metadata is read for every claim: most are empty.
func metadata(b []byte) (m api.Metadata, err error) {
	switch string(b) {
	case "", "null":
		return nil, nil
	case "{}":
		return api.Metadata{}, nil
	}
	err = json.Unmarshal(b, &m)
	return m, err
}

func metadataText(m api.Metadata) (string, error) {
	switch {
	case m == nil:
		return "", nil
	case len(m) == 0:
		return "{}", nil
	}
	return text(m)
}

// Storable says that a text can be kept by every engine: it is UTF-8 and has
// no NUL.
func Storable(s string) bool { return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 }
