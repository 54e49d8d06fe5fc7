package config

import (
	"runtime"
	"time"
)

// Engine is how a worker runs sessions, whatever control plane it serves.
type Engine struct {
	Workdir      string        `help:"Working directory of the tools; a directory that exists here needs --workdir-mode share." default:"/workspace" placeholder:"DIR"`
	WorkdirMode  string        `help:"private: each session has its own; share: all sessions use the directory itself." enum:"private,share" default:"private"`
	MaxSessions  int           `help:"Sessions with work to do at one time; 0 means eight for each CPU." default:"0"`
	MaxParked    int           `help:"Idle sessions whose sandboxes are kept beside them; they give way when room is needed." default:"64"`
	MaxIdle      time.Duration `help:"How long a session whose turn has ended keeps its worker and its sandbox; 0 means for ever." default:"60s"`
	DrainTimeout time.Duration `help:"How long running calls may take to end after the first stop signal." default:"150s"`
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
	if e.MaxSessions < 0 || e.MaxParked < 0 || e.MaxIdle < 0 || e.DrainTimeout < 0 {
		return wrong("give a number of at least 0", "a limit is negative")
	}
	return nil
}

// Sandbox says how tools are kept apart, where a worker finds the best way.
type Sandbox struct {
	Sandbox string `help:"How tools are isolated: auto, namespaces or process (no isolation)." default:"auto" placeholder:"WAY"`
}

// State is where a worker of its own keeps its sandboxes.
type State struct {
	StateDir string `help:"Directory of the worker's sandboxes and workspaces." default:"${state_dir}" type:"path" placeholder:"DIR"`
}

// Remote is the control plane a worker serves, under the official names.
type Remote struct {
	BaseURL        string `help:"The control plane." env:"ANTHROPIC_BASE_URL" default:"https://api.anthropic.com" placeholder:"URL"`
	EnvironmentID  string `help:"The environment whose queue is served." env:"ANTHROPIC_ENVIRONMENT_ID" placeholder:"ID"`
	EnvironmentKey Secret `help:"Its key; better given as the variable than as a flag." env:"ANTHROPIC_ENVIRONMENT_KEY" placeholder:"KEY"`
}

// Validate checks that the address is one.
func (r Remote) Validate() error { return httpURL("--base-url", r.BaseURL) }

// Item is a claimed work item, handed to `berth worker run` by whoever
// claimed it.
type Item struct {
	SessionID     string `help:"The item's session." env:"ANTHROPIC_SESSION_ID" placeholder:"ID"`
	WorkID        string `help:"The item." env:"ANTHROPIC_WORK_ID" placeholder:"ID"`
	WorkSecret    Secret `help:"The item's secret as it was polled; better given as the variable than as a flag." env:"ANTHROPIC_WORK_SECRET" placeholder:"SECRET"`
	LastHeartbeat string `help:"The last beat of a lease that somebody else began." env:"ANTHROPIC_WORK_LAST_HEARTBEAT" placeholder:"BEAT"`
}

// NeedQueue checks what polling needs.
func (r Remote) NeedQueue() error {
	switch {
	case r.EnvironmentID == "":
		return wrong("set ANTHROPIC_ENVIRONMENT_ID or --environment-id", "the environment to serve is not named")
	case r.EnvironmentKey == "":
		return wrong("set ANTHROPIC_ENVIRONMENT_KEY (berth keys create --environment "+r.EnvironmentID+" makes one)", "the environment's key is missing")
	}
	return nil
}

// NeedItem checks what serving one claimed item needs.
func (i Item) NeedItem(r Remote) error {
	switch {
	case r.EnvironmentID == "":
		return wrong("set ANTHROPIC_ENVIRONMENT_ID or --environment-id", "the item's environment is not named")
	case i.SessionID == "":
		return wrong("set ANTHROPIC_SESSION_ID or --session-id", "the item's session is not named")
	case i.WorkID == "":
		return wrong("set ANTHROPIC_WORK_ID or --work-id", "the work item is not named")
	case i.WorkSecret == "" && r.EnvironmentKey == "":
		return wrong("set ANTHROPIC_WORK_SECRET (preferred) or ANTHROPIC_ENVIRONMENT_KEY", "a credential for the item is missing")
	}
	return nil
}
