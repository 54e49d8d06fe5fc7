// Package sandbox is the isolation contract: a Driver makes Sandboxes, each
// the Host of one session's tools. A folder beside this file is one way to do
// it; sandboxtest is the suite that every way passes.
package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/berthdev/berth/internal/agentwire"
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
	// of it has then been removed. Of a record whose Handle cannot be read
	// Spec.Dir and Label are enough to find what runs and end it: ErrRecord.
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

// Assignable is a sandbox that can be started for nobody and given to a session
// later.
type Assignable interface {
	// Assign makes it session's: its folder, whose mark names the session, is
	// renamed to dir, which must not be there. Mounts and sockets follow the
	// folder, and what ReadRecord gives.
	Assign(session, dir string) error
}

// Renewable is a sandbox whose processes can be another one's after it.
type Renewable interface {
	// Renew ends what runs inside, as Stop does, and gives a sandbox by spec, as
	// the driver's Start does. On error there is none, nothing is left of it, and
	// this one is still to be stopped.
	Renew(ctx context.Context, spec Spec) (Sandbox, error)
}

// Prover is a sandbox whose driver can check what nobody inside can see:
// values of its cgroups, a daemon's settings, a version.
type Prover interface {
	// Prove is given what was found inside.
	Prove(ctx context.Context, inside agentwire.Posture) ([]Check, error)
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
	Kernel     bool `json:"kernel"`     // has a kernel of its own: the host sees no process of the session
	Recover    bool `json:"recover"`    // survives its worker
	Tree       bool `json:"tree"`       // mounts the session's tree, so file tools run on the host
	Images     bool `json:"images"`     // runs an image's root in place of the host's programs
	View       bool `json:"view"`       // shows a private view of a host's directory as the working directory
	Egress     bool `json:"egress"`     // can hand a session Network.Socket
	Mounts     bool `json:"mounts"`     // shows Spec.Mounts
	Users      bool `json:"users"`      // takes Spec.User
	HostNet    bool `json:"host_net"`   // can give the host's own network
	// Limits are those that it enforces here.
	Limits []Limit `json:"limits,omitempty"`
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
	// View is a host directory of which the session sees a private
	// copy-on-write view at Workdir; "" for none. Only drivers whose
	// Capabilities have View take one.
	View string
	// Env is added to the tools' environment.
	Env map[string]string
	// OutputBytes is how much of a command's output is kept, half from each
	// end; 0 means 100 KiB.
	OutputBytes int
	// User is who the tools are inside; the zero value is agent, 1000.
	User User
	// Image is the root that programs come from; nil means the host's.
	Image *Image
	// Limits bound what the session may use.
	Limits Limits
	// Network is what it may reach; the zero value is nothing.
	Network Network
	// Mounts are further directories of the host to show inside.
	Mounts []Mount
	// Parts are directories of the tree to show at their paths beside the usual ones,
	// or below one of those, to be read only.
	Parts []Part
	// Policy is the digest of the policy that this spec follows, "" for none.
	Policy string
	// OrphanTTL ends a sandbox whose worker does not come back; 0 means 120 s.
	OrphanTTL time.Duration
}

// Limit names one of Limits, as policies and receipts spell it.
type Limit string

// The limits.
const (
	LimitCPU         Limit = "cpu"
	LimitMemory      Limit = "memory"
	LimitPIDs        Limit = "pids"
	LimitDisk        Limit = "disk"
	LimitOpenFiles   Limit = "open_files"
	LimitCallTime    Limit = "call_time"
	LimitSessionTime Limit = "session_time"
)

// Limits bound a session. Zero is no limit. Those in Required refuse the
// session where they cannot be enforced; the others are enforced where that is
// possible, and the receipt says which are.
type Limits struct {
	CPU         float64       `json:"cpu,omitempty"`          // processors
	Memory      int64         `json:"memory,omitempty"`       // bytes, of processes and of memory file systems
	PIDs        int           `json:"pids,omitempty"`         // processes and threads
	Disk        int64         `json:"disk,omitempty"`         // bytes of the session's tree
	OpenFiles   int           `json:"open_files,omitempty"`   // descriptors of one process
	CallTime    time.Duration `json:"call_time,omitempty"`    // of one command, whatever it asks for
	SessionTime time.Duration `json:"session_time,omitempty"` // of the sandbox, from its start
	Required    []Limit       `json:"required,omitempty"`
}

// NetworkMode says what a session may reach.
type NetworkMode string

// The modes. With allow, the way out is Network.Socket and nothing else; host
// is the host's own network, which only a policy can name.
const (
	NetworkNone  NetworkMode = ""
	NetworkAllow NetworkMode = "allow"
	NetworkHost  NetworkMode = "host"
)

// Network is a session's way out.
type Network struct {
	Mode NetworkMode `json:"mode,omitempty"`
	// Socket is a unix socket on the host at which the supervisor's proxy
	// listens for this session alone; it speaks HTTP (CONNECT) and SOCKS5. The
	// driver shows its directory inside, read-only, and the agent offers it on
	// loopback.
	Socket string `json:"socket,omitempty"`
	// CA and Bundle are PEM files beside Socket: the authority of intercepted
	// hosts, and it with those that the host trusts. "" where no host is
	// intercepted.
	CA     string `json:"ca,omitempty"`
	Bundle string `json:"bundle,omitempty"`
}

// Image is an unpacked or a daemon's image.
type Image struct {
	Ref    string   `json:"ref"`              // as the policy names it
	Digest string   `json:"digest,omitempty"` // sha256:…
	Root   string   `json:"root,omitempty"`   // the unpacked root on the host, never written to; "" for docker
	Env    []string `json:"env,omitempty"`    // KEY=value, from the image's configuration
}

// User is a user inside, never root; whoever that is outside. What is empty is
// as in the zero value's.
type User struct {
	Name string `json:"name,omitempty"`
	UID  int    `json:"uid,omitempty"` // the group's number too
}

// Mount shows a directory of the host inside. Target is absolute and not
// Reserved.
type Mount struct {
	Source   string `json:"source"`
	Target   string `json:"target"`
	ReadOnly bool   `json:"read_only,omitempty"`
}

// Part is a directory of the session's tree, by its clean absolute path
// inside.
type Part struct {
	Path     string `json:"path"`
	ReadOnly bool   `json:"read_only,omitempty"`
}

// Receipt is what was found when a sandbox was proven before its first call.
// It is kept with the session.
type Receipt struct {
	Session  string    `json:"session"`
	Driver   string    `json:"driver"`
	Version  string    `json:"version,omitempty"` // of what the driver relies on
	Policy   string    `json:"policy,omitempty"`
	At       time.Time `json:"at"`
	Checks   []Check   `json:"checks"`
	Enforced []Limit   `json:"enforced,omitempty"`
	Left     []Limit   `json:"left,omitempty"` // asked for, not required, not enforced here
}

// Check is one line of a receipt.
type Check struct {
	Name     string `json:"name"`
	Promised string `json:"promised"`
	Found    string `json:"found"`
	OK       bool   `json:"ok"`
}

// Record is a sandbox's handle on disk (record.json in Spec.Dir).
type Record struct {
	Driver    string          `json:"driver"`
	Label     string          `json:"label,omitempty"` // of the folder that it was started in
	SessionID string          `json:"session_id"`
	Spec      Spec            `json:"spec"`
	Handle    json.RawMessage `json:"handle"` // the driver's own
	StartedAt time.Time       `json:"started_at"`
}

type gone struct{}

func (gone) Error() string { return "the sandbox is gone" }

// ErrRecord says that a record, or the handle in it, cannot be read. With
// ErrGone nothing of its sandbox is left.
var ErrRecord = errors.New("the sandbox's record cannot be read")

// ErrGone is Recover's answer when there is nothing to take over.
var ErrGone error = gone{}
