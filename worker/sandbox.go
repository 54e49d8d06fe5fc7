package worker

import (
	"context"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/toolset"
)

// Sandboxes gives each session a place for its tools. Safe for concurrent use.
type Sandboxes interface {
	// Open gives the session's sandbox: the live one, a re-adopted one or a
	// new one on the session's tree. lost says that the session had a
	// workspace on this host before and it is gone. With an *OpenError the
	// session is told why there is none.
	Open(ctx context.Context, o Opening) (sb Sandbox, lost bool, err error)
}

// OpenError is a failure of Sandboxes.Open that concerns the session: its calls
// are answered with Text, which must hold nothing that the session may not
// know.
type OpenError struct {
	Text string
	// Final says that trying again at once is of no use. The next call tries
	// again in any case.
	Final bool
}

func (e *OpenError) Error() string { return e.Text }

// Opening is what a sandbox is opened for.
type Opening struct {
	// Session is as the control plane gave it when its item was taken up.
	Session api.Session
	// Mounts are directories of this host that the tools shall see.
	Mounts []Mount
	// Folders are directories of the session's own that the sandbox must have.
	Folders []Folder
	// Warn tells the session something with its next result, in one line that
	// holds nothing the session may not know. It is never nil.
	Warn func(text string)
}

// Mount shows a directory of this host inside a sandbox.
type Mount struct {
	Source   string // absolute, on this host
	Target   string // absolute, as the tools see it; relative means below the working directory
	ReadOnly bool
}

// Folder is a directory that belongs to the session and is made if it is
// missing.
type Folder struct {
	Path     string // absolute, as the tools see it; relative means below the working directory
	ReadOnly bool   // for the tools
}

// Sandbox is a session's place for its tools, from Open to Close.
type Sandbox interface {
	toolset.Host
	// Close ends the sandbox; with forget its workspace goes too. Twice is fine.
	Close(ctx context.Context, forget bool) error
}

// nowhere is the sandbox of tools that need none.
type nowhere struct{}

func (nowhere) Open(context.Context, Opening) (Sandbox, bool, error) { return nowhere{}, false, nil }

func (nowhere) Bash(context.Context, toolset.Command) (toolset.Result, error) {
	return toolset.Result{End: toolset.Refused, Head: []byte("there is no shell here")}, nil
}
func (nowhere) Restart(context.Context) error     { return nil }
func (nowhere) Files() toolset.Files              { return nil }
func (nowhere) Workdir() string                   { return "/" }
func (nowhere) Close(context.Context, bool) error { return nil }

// Lasting is a Sandbox that outlives its worker and runs no command twice: one
// that it has heard of under its call's id it answers, and does not run anew.
type Lasting interface {
	// Birth names the sandbox among all that the session has ever had; it is
	// the same in every process that has it.
	Birth() string
}
