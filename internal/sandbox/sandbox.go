// Package sandbox is the isolation contract: a Driver makes Sandboxes, each
// the Host of one session's tools. A folder beside this file is one way to do
// it; sandboxtest is the suite that every way passes.
package sandbox

import (
	"context"
	"encoding/json"
	"time"

	"github.com/berthdev/berth/toolset"
)

// Driver makes sandboxes one way. Safe for concurrent use.
type Driver interface {
	Name() string
	// Probe says whether the driver can run here, by trying.
	Probe(ctx context.Context) Probe
	// Capabilities says what the driver promises once Probe is good.
	Capabilities() Capabilities
	// Start makes a sandbox and returns when its shell can be asked. On error
	// nothing is left behind.
	Start(ctx context.Context, spec Spec) (Sandbox, error)
	// Recover takes a live sandbox over from a process that is gone, by its
	// record. ErrGone when there is nothing left to take over; what remains
	// of it has then been removed.
	Recover(ctx context.Context, rec Record) (Sandbox, error)
}

// Sandbox is a running sandbox.
type Sandbox interface {
	toolset.Host
	// Record is what Recover needs; it is on disk in the sandbox's folder
	// before Start returns.
	Record() Record
	// Stop ends every process and removes everything but the session's tree.
	// Twice is fine. It ends within seconds whatever runs inside.
	Stop(ctx context.Context) error
}

// Probe is a driver's answer to "can you run here". Reason and Cure are one
// line each, for people, when OK is false.
type Probe struct {
	OK      bool   `json:"ok"`
	Reason  string `json:"reason,omitempty"`
	Cure    string `json:"cure,omitempty"`
	Version string `json:"version,omitempty"`
}

// Capabilities is what a driver enforces on this machine.
type Capabilities struct {
	Processes  bool `json:"processes"`  // sees no process of the host or of a neighbour
	Files      bool `json:"files"`      // sees no file of the host but its read-only programs
	Network    bool `json:"network"`    // has no network
	Privileges bool `json:"privileges"` // no capabilities, no_new_privs
	Syscalls   bool `json:"syscalls"`   // a system call filter
	Recover    bool `json:"recover"`    // survives its worker
	Tree       bool `json:"tree"`       // mounts the session's tree, so file tools run on the host
}

// Spec is what a session needs of its sandbox.
type Spec struct {
	SessionID string
	// Dir is the sandbox's folder on the host, made by the caller and empty
	// but for tree/: drivers keep record.json and agent.sock in it.
	Dir string
	// Tree is the session's tree on the host; it mirrors the paths inside
	// (workspace, mnt/session, mnt/memory, tmp) and outlives the sandbox.
	Tree string
	// Workdir is the absolute working directory inside, /workspace by default.
	Workdir string
	// Share is a host directory to show at Workdir as it is, the official
	// worker's behaviour; "" for none.
	Share string
	// Env is added to the tools' environment.
	Env map[string]string
	// OutputBytes is how much of a command's output is kept, half from each
	// end; 0 means 100 KiB.
	OutputBytes int
	// OrphanTTL ends a sandbox whose worker does not come back; 0 means 120 s.
	OrphanTTL time.Duration
}

// Record is a sandbox's handle on disk (record.json in Spec.Dir).
type Record struct {
	Driver    string          `json:"driver"`
	SessionID string          `json:"session_id"`
	Spec      Spec            `json:"spec"`
	Handle    json.RawMessage `json:"handle"` // the driver's own
	StartedAt time.Time       `json:"started_at"`
}

type gone struct{}

func (gone) Error() string { return "the sandbox is gone" }

// ErrGone is Recover's answer when there is nothing to take over.
var ErrGone error = gone{}
