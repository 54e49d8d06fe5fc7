package agentwire

import "time"

// Boot tells a fresh agent what to make of itself: the steps that build its
// file system, then the shell to run.
type Boot struct {
	// Steps are done in order; the first that fails ends the agent.
	Steps []Step
	// Seal gives up every privilege after the steps: capabilities, the
	// bounding set, new privileges, and being traced.
	Seal bool
	// Bash is the shell's program, Workdir where it starts, Env its whole
	// environment (KEY=value).
	Bash    string
	Workdir string
	Env     []string
	// RunDir is a directory of the agent's own for the shell's pipes.
	RunDir      string
	OutputBytes int // how much of a command's output is kept
	OrphanTTL   time.Duration
	// Processes and OpenFiles bound the tools; 0 is 2,048 processes (with
	// Seal) and as many descriptors as the agent itself may have.
	Processes, OpenFiles int
	// Egress is the socket inside of the proxy that the agent offers on
	// loopback (ProxyPort), "" for none.
	Egress string
	// Places are the directories in which the agent does file operations; none
	// where the supervisor reaches the files itself.
	Places []string
	// OwnKernel says that the sandbox has a kernel of its own, as gVisor: system
	// calls are dear, and it counts none but the sandbox's processes.
	OwnKernel bool
	// Renews says that a further Boot, on a later connection, ends all that this
	// one began and begins anew. The agent then gives its mounts a namespace of
	// their own, each time from the one that it was started in.
	Renews bool
	// Fault, in tests, is a part of the seal that fails ("fail PART") or is
	// left out without a word ("skip PART").
	Fault string
}

// ProxyPort is where tools find the proxy of a session that may reach
// anything: on 127.0.0.1.
const ProxyPort = 3128

// SealParts are what a seal consists of, in order.
var SealParts = []string{"keyring", "rlimits", "bounding set", "no_new_privs", "capabilities", "undumpable", "filter"}

// StepKind is one thing to do while building a file system. Paths of targets
// are as they will be seen inside.
type StepKind uint8

// The steps. Root comes first and Pivot last when a new root is built; sources
// are opened before any step is done, so that no mount hides one.
const (
	StepPrivate  StepKind = iota + 1 // mounts made here are not seen outside
	StepRoot                         // a fresh root (tmpfs) is begun; Data holds mount options
	StepDir                          // Target is made with Mode, and its parents
	StepFile                         // Target is written with Data and Mode
	StepLink                         // Target becomes a symbolic link to Source
	StepBind                         // Source (or descriptor FD) is mounted at Target
	StepSelf                         // Target becomes a mount of its own, which stays writable unless it is ReadOnly, of Source inside where that is named
	StepProc                         // a fresh /proc at Target
	StepPts                          // a fresh devpts at Target
	StepFreeze                       // the fresh root becomes read-only
	StepPivot                        // the fresh root becomes /
	StepLoopback                     // the loopback interface goes up
	StepHostname                     // the host is called Source
	StepPlain                        // the capabilities of the steps are not for the shell
	StepNoUsers                      // no further user namespaces may be made; best effort
	StepMemory                       // Target is a tmpfs of its own; Data holds mount options
	StepUnmount                      // what is mounted at Target is not for the tools
	StepImage                        // what is made from here on will lie over the image at Source (or descriptor FD)
	StepOverlay                      // and now it does: the root is both, read-only
	StepDisk                         // Target is a tmpfs that programs run from; Data holds mount options
	StepEnter                        // the agent is in Target from then on, and its children are not; after Pivot
	StepSlave                        // as StepPrivate, and what is mounted or unmounted outside is so here
)

// String names a kind.
func (k StepKind) String() string {
	names := []string{"", "private", "root", "dir", "file", "link", "bind", "self", "proc", "pts", "freeze", "pivot", "loopback", "hostname", "plain", "no users", "memory", "unmount", "image", "overlay", "disk", "enter", "slave"}
	if int(k) < len(names) {
		return names[k]
	}
	return "unknown"
}

// Step is one step. FD is the number of an inherited descriptor of a detached
// mount, or 0. The Mode of a StepBind is the source's kind (S_IFMT) where that is
// known, else 0.
type Step struct {
	Kind     StepKind
	Source   string
	Target   string
	Data     []byte
	Mode     uint32
	FD       int
	ReadOnly bool // StepBind, StepSelf: read-only
	Devices  bool // StepBind: device files work (else nodev)
	Setuid   bool // StepBind: setuid bits count (else nosuid)
	Optional bool // a missing source, or any failure, is passed over
}

// Run asks for a command.
type Run struct {
	ID    string
	Text  string
	Limit time.Duration // whole milliseconds travel; 0 means the agent's default
	// Stream asks for the output as it comes, in Output frames before the
	// Result, as long as the connection lasts.
	Stream bool
}

// Output is what a streaming command has written since the last one.
type Output struct {
	ID   string
	Data []byte
}

// Result is how a command ended. End holds the values of toolset.End.
type Result struct {
	ID       string
	End      string
	ExitCode int
	Head     []byte
	Dropped  int64
	Tail     []byte
	Elapsed  time.Duration
	OOM      bool
}

// Busy is Refused's reason while another command runs.
const Busy = "another command is running"

// Refused says why an id was not run.
type Refused struct {
	ID     string
	Reason string
}

// Encode gives the message's body.
func (m Boot) Encode() []byte {
	var f fields
	f.num(uint64(len(m.Steps)))
	for _, s := range m.Steps {
		f.num(uint64(s.Kind))
		f.str(s.Source)
		f.str(s.Target)
		f.bytes(s.Data)
		f.num(uint64(s.Mode))
		f.num(uint64(s.FD))
		f.bool(s.ReadOnly)
		f.bool(s.Devices)
		f.bool(s.Setuid)
		f.bool(s.Optional)
	}
	f.bool(m.Seal)
	f.str(m.Bash)
	f.str(m.Workdir)
	f.num(uint64(len(m.Env)))
	for _, e := range m.Env {
		f.str(e)
	}
	f.str(m.RunDir)
	f.num(uint64(m.OutputBytes))
	f.num(uint64(m.OrphanTTL / time.Millisecond))
	f.num(uint64(max(m.Processes, 0)))
	f.num(uint64(max(m.OpenFiles, 0)))
	f.str(m.Egress)
	f.strs(m.Places)
	f.bool(m.OwnKernel)
	f.bool(m.Renews)
	f.str(m.Fault)
	return f
}

// DecodeBoot reads a Boot.
func DecodeBoot(b []byte) (Boot, error) {
	p := parser{b: b}
	var m Boot
	for range p.count() {
		m.Steps = append(m.Steps, Step{
			Kind: StepKind(p.num()), Source: p.str(), Target: p.str(), Data: p.bytes(),
			Mode: uint32(p.num()), FD: int(p.num() & 0xffff),
			ReadOnly: p.bool(), Devices: p.bool(), Setuid: p.bool(), Optional: p.bool(),
		})
		if p.bad {
			return Boot{}, ErrBad
		}
	}
	m.Seal = p.bool()
	m.Bash = p.str()
	m.Workdir = p.str()
	for range p.count() {
		m.Env = append(m.Env, p.str())
	}
	m.RunDir = p.str()
	m.OutputBytes = int(min(p.num(), MaxOutput))
	m.OrphanTTL = millis(p.num())
	m.Processes, m.OpenFiles = int(p.num()&(1<<31-1)), int(p.num()&(1<<31-1))
	m.Egress = p.str()
	m.Places = p.strs()
	m.OwnKernel = p.bool()
	m.Renews = p.bool()
	m.Fault = p.str()
	return m, p.end()
}

// Encode gives the message's body.
func (m Run) Encode() []byte {
	var f fields
	f.str(m.ID)
	f.str(m.Text)
	f.num(uint64(max(m.Limit, 0) / time.Millisecond))
	f.bool(m.Stream)
	return f
}

// DecodeRun reads a Run.
func DecodeRun(b []byte) (Run, error) {
	p := parser{b: b}
	m := Run{ID: p.str(), Text: p.str(), Limit: millis(p.num()), Stream: p.bool()}
	if len(m.Text) > MaxText {
		return Run{}, ErrTooLarge
	}
	return m, p.end()
}

// Encode gives the message's body.
func (m Output) Encode() []byte {
	f := make(fields, 0, len(m.Data)+len(m.ID)+16)
	f.str(m.ID)
	f.bytes(m.Data)
	return f
}

// DecodeOutput reads an Output; its data shares b's memory.
func DecodeOutput(b []byte) (Output, error) {
	p := parser{b: b}
	m := Output{ID: p.str(), Data: p.bytes()}
	return m, p.end()
}

// Encode gives the message's body.
func (m Result) Encode() []byte {
	f := make(fields, 0, len(m.Head)+len(m.Tail)+len(m.ID)+64)
	f.str(m.ID)
	f.str(m.End)
	f.num(uint64(uint32(m.ExitCode)))
	f.bytes(m.Head)
	f.num(uint64(m.Dropped))
	f.bytes(m.Tail)
	f.num(uint64(m.Elapsed / time.Microsecond))
	f.bool(m.OOM)
	return f
}

// DecodeResult reads a Result.
func DecodeResult(b []byte) (Result, error) {
	p := parser{b: b}
	m := Result{ID: p.str(), End: p.str(), ExitCode: int(int32(uint32(p.num())))}
	m.Head = p.bytes()
	m.Dropped = int64(p.num() & (1<<62 - 1))
	m.Tail = p.bytes()
	m.Elapsed = time.Duration(p.num()&(1<<52-1)) * time.Microsecond
	m.OOM = p.bool()
	return m, p.end()
}

// Encode gives the message's body.
func (m Refused) Encode() []byte {
	var f fields
	f.str(m.ID)
	f.str(m.Reason)
	return f
}

// DecodeRefused reads a Refused.
func DecodeRefused(b []byte) (Refused, error) {
	p := parser{b: b}
	m := Refused{ID: p.str(), Reason: p.str()}
	return m, p.end()
}

// EncodeText is the body of the kinds that carry one string: an id (Ask, Ack,
// Interrupt, Running, Unknown) or a reason (Failed).
func EncodeText(s string) []byte {
	var f fields
	f.str(s)
	return f
}

// DecodeText reads such a body.
func DecodeText(b []byte) (string, error) {
	p := parser{b: b}
	s := p.str()
	return s, p.end()
}

// EncodeReady is the body of Ready.
func EncodeReady(pid int) []byte {
	var f fields
	f.num(uint64(pid))
	return f
}

// DecodeReady reads a Ready.
func DecodeReady(b []byte) (pid int, err error) {
	p := parser{b: b}
	pid = int(p.num() & (1<<31 - 1))
	return pid, p.end()
}

// millis bounds a duration from the wire to ten years.
func millis(v uint64) time.Duration {
	return time.Duration(min(v, 10*365*24*3600*1000)) * time.Millisecond
}
