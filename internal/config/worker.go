package config

import (
	"io"
	"os"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// Engine is how a worker runs sessions, whatever control plane it serves.
type Engine struct {
	Workdir      string        `help:"Working directory of the tools; of a directory that exists here each session has a private copy-on-write view." default:"/workspace" placeholder:"DIR"`
	WorkdirMode  string        `help:"private: each session has its own, or its own view; share: all sessions use the directory itself." enum:"private,share" default:"private"`
	MaxSessions  int           `help:"Sessions with work to do at one time; 0 means eight for each CPU." default:"0"`
	MaxParked    int           `help:"Idle sessions whose sandboxes are kept beside them; they give way when room is needed." default:"64"`
	MaxIdle      time.Duration `help:"How long a session whose turn has ended keeps its worker and its sandbox; 0 means for ever." default:"60s"`
	DrainTimeout time.Duration `help:"How long running calls may take to end after the first stop signal." default:"150s"`

	KeepWorkspaces     time.Duration `help:"How long the files of a session that is not at work are kept here." default:"168h"`
	KeepWorkspaceBytes Bytes         `help:"Most that the kept files of such sessions may have together; the oldest go first." default:"100GiB" placeholder:"SIZE"`

	Inputs `embed:""`
}

// Inputs is what sessions may have brought into their working directories, as
// docs/inputs.md says.
type Inputs struct {
	InputRoot    []string `help:"Directory of this machine that file: inputs may be read from; may be given several times. None by default." placeholder:"DIR"`
	InputBucket  []string `help:"S3 bucket, or bucket/prefix, that s3: inputs may be read from with the worker's AWS credentials; may be given several times. None by default." placeholder:"BUCKET"`
	InputBytes   Bytes    `help:"Most that the inputs of one session may have together." default:"16GiB" placeholder:"SIZE"`
	InputPrivate bool     `help:"Let https: and git+https: inputs come from addresses that are not public."`
	InputCA      string   `name:"input-ca" help:"PEM file with authorities to trust for https: and git+https: inputs, beside the system's." type:"path" placeholder:"FILE"`
	S3Endpoint   string   `name:"s3-endpoint" env:"BERTH_S3_ENDPOINT" help:"S3 server of s3: inputs; empty is what AWS's own settings say." placeholder:"URL"`
}

// Slots is MaxSessions, or what this machine can carry.
func (e Engine) Slots() int {
	if e.MaxSessions > 0 {
		return e.MaxSessions
	}
	return 8 * runtime.NumCPU()
}

// Validate checks what flags alone cannot.
func (e Engine) Validate() error {
	if e.MaxSessions < 0 || e.MaxParked < 0 || e.MaxIdle < 0 || e.DrainTimeout < 0 || e.KeepWorkspaces < 0 {
		return wrong("give a number of at least 0", "a limit is negative")
	}
	return nil
}

// Sandbox says how tools are kept apart, where a worker finds the best way.
type Sandbox struct {
	Sandbox        string `help:"How tools are isolated: auto, namespaces, gvisor, docker, command (by what --sandbox-command leads to) or process (no isolation)." default:"auto" placeholder:"WAY"`
	Runsc          string `help:"gVisor's program for --sandbox gvisor; empty is the runsc beside berth, in bin/ beside it, or on the PATH." type:"path" placeholder:"FILE"`
	SandboxCommand string `help:"Command line of --sandbox command: its standard input and output are a shell's where tools run; {session} is the session, {tree} its folder here." placeholder:"LINE"`
	SandboxRuntime string `help:"Runtime that --sandbox docker takes of those the Docker daemon offers; empty is the daemon's default." placeholder:"NAME"`
	DockerHost     string `help:"The Docker daemon of --sandbox docker, on this machine; empty is unix:///var/run/docker.sock." env:"DOCKER_HOST" placeholder:"URL"`

	ToolUser int `kong:"-"` // of process; 0 is who this process is
}

// Warm says how many sandboxes a worker that serves many sessions has ready.
type Warm struct {
	Warm int `help:"Sandboxes kept ready for sessions that are new to this worker; 0 keeps none, -1 as many as are cheap: 8 small ones (process, namespaces) where no policy promises each a share of the machine, else 2." default:"-1" placeholder:"N"`
}

// Validate checks what flags alone cannot.
func (w Warm) Validate() error {
	if w.Warm < -1 || w.Warm > 1000 {
		return wrong("give a number from 0 to 1000, or -1", "--warm %d cannot be", w.Warm)
	}
	return nil
}

// Policy is what sessions may use and reach. The flags win over the file.
type Policy struct {
	PolicyFile  string   `help:"What sessions may use and reach, in a file (docs/policy.md); the flags below win over it." name:"policy" type:"path" placeholder:"FILE"`
	Image       string   `help:"Root of the sandboxes: an image reference, an OCI layout directory or an archive; empty means this machine's programs." placeholder:"REF"`
	CPUs        string   `help:"Processors that a session may use, such as 1.5." name:"cpus" placeholder:"N"`
	Memory      string   `help:"Memory that a session may use, such as 2GiB." placeholder:"SIZE"`
	PIDs        string   `help:"Processes and threads that a session may have." name:"pids" placeholder:"N"`
	Disk        string   `help:"Size that a session's files may have, such as 4GiB." placeholder:"SIZE"`
	CallTime    string   `help:"How long one command may take, whatever it asks for, such as 10m." placeholder:"DURATION"`
	SessionTime string   `help:"How long a sandbox may live, such as 2h." placeholder:"DURATION"`
	AllowHost   []string `help:"Let sessions reach this host, such as pypi.org or *.pythonhosted.org; may be repeated, and replaces the file's network." placeholder:"HOST"`
}

// Named says whether a policy is asked for at all.
func (p Policy) Named() bool {
	for _, s := range append([]string{p.PolicyFile, p.Image, p.CPUs, p.Memory, p.PIDs, p.Disk, p.CallTime, p.SessionTime}, p.AllowHost...) {
		if s != "" {
			return true
		}
	}
	return false
}

// State is where a worker of its own keeps its sandboxes.
type State struct {
	StateDir string `help:"Directory of the worker's sandboxes and workspaces." default:"${state_dir}" type:"path" placeholder:"DIR"`
}

// AnthropicURL is the control plane that is served unless another is named.
const AnthropicURL = "https://api.anthropic.com"

// Remote is the control plane a worker serves, under the official names.
type Remote struct {
	BaseURL        string `help:"The control plane." env:"ANTHROPIC_BASE_URL" default:"https://api.anthropic.com" placeholder:"URL"`
	EnvironmentID  string `help:"The environment whose queue is served." env:"ANTHROPIC_ENVIRONMENT_ID" placeholder:"ID"`
	EnvironmentKey Secret `help:"Its key; better given as the variable than as a flag." env:"ANTHROPIC_ENVIRONMENT_KEY" placeholder:"KEY"`
}

// Login is how a worker's requests are let in.
type Login struct {
	Auth         string `help:"key: the environment's key and items' tokens; aws: signed with this machine's AWS credentials, for Claude Platform on AWS; api-key: that platform's console key." enum:"key,aws,api-key" default:"key"`
	AWSRegion    string `name:"aws-region" help:"Region of Claude Platform on AWS; empty is what AWS's own settings say." env:"AWS_REGION" placeholder:"REGION"`
	AWSService   string `name:"aws-service" help:"Service name that requests are signed for." default:"aws-external-anthropic" placeholder:"NAME"`
	AWSWorkspace string `name:"aws-workspace" help:"Workspace of Claude Platform on AWS." env:"ANTHROPIC_AWS_WORKSPACE_ID" placeholder:"ID"`
	AWSAPIKey    Secret `name:"aws-api-key" help:"Its console key for --auth api-key; better given as the variable than as a flag." env:"ANTHROPIC_AWS_API_KEY" placeholder:"KEY"`
}

// OnAWS says that neither the environment's key nor an item's token is sent.
func (l Login) OnAWS() bool { return l.Auth == "aws" || l.Auth == "api-key" }

// NeedLogin checks what a way to be let in needs.
func (l Login) NeedLogin() error {
	switch {
	case l.OnAWS() && l.AWSWorkspace == "":
		return wrong("set ANTHROPIC_AWS_WORKSPACE_ID or --aws-workspace", "--auth %s: the workspace is not named", l.Auth)
	case l.Auth == "api-key" && l.AWSAPIKey == "":
		return wrong("set ANTHROPIC_AWS_API_KEY", "--auth api-key: the console key is missing")
	}
	return nil
}

// Validate checks that the address is one.
func (r Remote) Validate() error { return httpURL("--base-url", r.BaseURL) }

// Item is a claimed work item, handed to `berth worker run` by whoever
// claimed it.
type Item struct {
	SessionID      string `help:"The item's session." env:"ANTHROPIC_SESSION_ID" placeholder:"ID"`
	WorkID         string `help:"The item." env:"ANTHROPIC_WORK_ID" placeholder:"ID"`
	WorkSecret     Secret `help:"The item's secret as it was polled; better given as the variable than as a flag." env:"ANTHROPIC_WORK_SECRET" placeholder:"SECRET"`
	WorkSecretFile string `help:"File that holds the item's secret, in place of the variable; not one that everybody on this machine may read or write." env:"ANTHROPIC_WORK_SECRET_FILE" type:"path" placeholder:"FILE"`
	LastHeartbeat  string `help:"The last beat of a lease that somebody else began." env:"ANTHROPIC_WORK_LAST_HEARTBEAT" placeholder:"BEAT"`
}

// Webhook is where the control plane's deliveries come in.
type Webhook struct {
	Addr        string        `help:"Address to take deliveries at, at any path; port 0 picks a free one." default:"127.0.0.1:8410" placeholder:"HOST:PORT"`
	Sweep       time.Duration `help:"How long the queue is not looked at when no delivery comes; 0 means until one does." default:"60s"`
	SigningKeys Secret        `name:"signing-keys" help:"The endpoint's signing key, whsec_…; several with commas between them while one replaces another. Better given as the variable than as a flag." env:"ANTHROPIC_WEBHOOK_SIGNING_KEY" placeholder:"KEYS"`
}

// Keys are the signing keys.
func (w Webhook) Keys() ([]string, error) {
	var keys []string
	for k := range strings.SplitSeq(w.SigningKeys.Reveal(), ",") {
		if k = strings.TrimSpace(k); k != "" {
			keys = append(keys, k)
		}
	}
	if keys == nil {
		return nil, wrong("set ANTHROPIC_WEBHOOK_SIGNING_KEY to the key that was shown when the endpoint was registered", "the webhook's signing key is missing")
	}
	return keys, nil
}

// Tools are custom tools that this worker answers.
type Tools struct {
	Tools string `help:"YAML or JSON file with custom tools to answer, by commands or by MCP servers in the sandbox; see docs/tools.md." type:"path" placeholder:"FILE"`
}

// Takeover is for control planes that do not tell what a lost worker may have
// begun.
type Takeover struct {
	Takeover string `help:"A call that a worker which is gone may have begun, where neither this worker's journal nor the control plane knows. run: run it, so that each call runs at least once; interrupt: answer it as interrupted, so that none runs twice." enum:"run,interrupt" default:"run"`
}

// Memory is what becomes of the memory stores that sessions have.
type Memory struct {
	MemoryStores        string        `help:"sync: each memory store of a session is a directory that its tools read and write, kept in step; off: sessions run without their stores." enum:"sync,off" default:"sync"`
	MemorySyncInterval  time.Duration `help:"How long after a sync the next one may follow a call; at least 5s." default:"15s"`
	MemorySyncDeletions string        `help:"What a deleted file does to its memory in the store. enabled: it is deleted; log-only: the log says so and nothing is; disabled: nothing." enum:"enabled,log-only,disabled" default:"enabled"`
}

// Validate checks what flags alone cannot. The zero value is the default.
func (m Memory) Validate() error {
	if m.MemorySyncInterval != 0 && m.MemorySyncInterval < 5*time.Second {
		return wrong("give 5s or more, or --memory-stores off", "--memory-sync-interval %v is too short", m.MemorySyncInterval)
	}
	return nil
}

// OnWork hands items to a script.
type OnWork struct {
	OnWork           string        `help:"Run this program for each item in place of the built-in runner, the item as JSON on its standard input; in-process means the built-in one." placeholder:"SCRIPT"`
	OnWorkLease      string        `help:"Who keeps an item's lease alive. child: what the script starts; an item nobody has beaten for is left to be offered again. parent: this process, until the script ends." enum:"child,parent" default:"child"`
	OnWorkCredential string        `help:"What the script gets as ANTHROPIC_ENVIRONMENT_KEY. token: the item's own token; key: the environment's key." enum:"token,key" default:"token"`
	OnWorkTimeout    time.Duration `help:"How long a script may run before it is stopped; 0 means as long as it likes." default:"0s"`
}

// Watch is how a worker is seen from outside.
type Watch struct {
	MetricsAddr string `help:"Address to answer at with metrics, health and a status page (docs/metrics.md), to anybody who reaches it; none by default." placeholder:"HOST:PORT"`
}

// Script is the program to run, "" for the built-in runner.
func (o OnWork) Script() string {
	if o.OnWork == "in-process" {
		return ""
	}
	return o.OnWork
}

// ScriptEnv is this process's environment for a script of the operator's. The
// credentials in it are gone already; see Scrub.
func ScriptEnv() []string { return os.Environ() }

// LeaseKept says that whoever started this process keeps the item's lease.
func LeaseKept() bool { return os.Getenv("BERTH_WORK_LEASE") == "parent" }

// NeedQueue checks what polling needs.
func (r Remote) NeedQueue(l Login) error {
	switch {
	case r.EnvironmentID == "":
		return wrong("set ANTHROPIC_ENVIRONMENT_ID or --environment-id", "the environment to serve is not named")
	case r.EnvironmentKey == "" && !l.OnAWS():
		return wrong("set ANTHROPIC_ENVIRONMENT_KEY (berth keys create --environment "+r.EnvironmentID+" makes one)", "the environment's key is missing")
	}
	return l.NeedLogin()
}

// maxSecretBytes bounds a file that holds a secret.
const maxSecretBytes = 64 << 10

// ReadSecret takes the item's secret from its file where one is named. Blanks
// and line ends around it do not count.
func (i *Item) ReadSecret() error {
	if i.WorkSecretFile == "" {
		return nil
	}
	f, err := os.OpenFile(i.WorkSecretFile, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return wrong("name a file that this user may read", "--work-secret-file: %v", err)
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil || !info.Mode().IsRegular():
		return wrong("name a file that holds the secret", "--work-secret-file: %s is no regular file", i.WorkSecretFile)
	case info.Mode()&0o006 != 0:
		return wrong("chmod o-rw "+i.WorkSecretFile, "--work-secret-file: everybody on this machine may read or write %s", i.WorkSecretFile)
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxSecretBytes+1))
	text := strings.TrimSpace(string(raw))
	switch {
	case err != nil:
		return wrong("name a file that this user may read", "--work-secret-file: %v", err)
	case text == "" || len(raw) > maxSecretBytes:
		return wrong("write the item's secret into it", "--work-secret-file: %s holds no secret", i.WorkSecretFile)
	}
	i.WorkSecret = Secret(text)
	return nil
}

// NeedItem checks what serving one claimed item needs.
func (i Item) NeedItem(r Remote, l Login) error {
	switch {
	case r.EnvironmentID == "":
		return wrong("set ANTHROPIC_ENVIRONMENT_ID or --environment-id", "the item's environment is not named")
	case i.SessionID == "":
		return wrong("set ANTHROPIC_SESSION_ID or --session-id", "the item's session is not named")
	case i.WorkID == "":
		return wrong("set ANTHROPIC_WORK_ID or --work-id", "the work item is not named")
	case i.WorkSecret == "" && r.EnvironmentKey == "" && !l.OnAWS():
		return wrong("set ANTHROPIC_WORK_SECRET or ANTHROPIC_WORK_SECRET_FILE (preferred), or ANTHROPIC_ENVIRONMENT_KEY", "a credential for the item is missing")
	}
	return l.NeedLogin()
}
