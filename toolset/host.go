// Package toolset holds the six sandbox tools of agent_toolset_20260401
// (bash, read, write, edit, glob, grep) over a small Host interface. It is a
// public library: whoever has a shell and a file system for a session can
// serve the tools with it.
package toolset

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"
)

// Host is where a session's tools run: a persistent shell and a file system.
// Safe for concurrent use; commands run one at a time in the order they come.
type Host interface {
	Shell
	// Files is the session's file system, or nil when tools must not use one.
	Files() Files
	// Workdir is the absolute working directory as the tools see it.
	Workdir() string
}

// Shell is one persistent bash. Bash always returns: with the command's end,
// its limit, its interruption or the shell's death.
type Shell interface {
	// Bash runs a command. An error means that the host itself failed (the
	// sandbox is gone); everything a command can do to itself is a Result.
	Bash(ctx context.Context, c Command) (Result, error)
	// Restart replaces the shell by a fresh one in the working directory.
	Restart(ctx context.Context) error
}

// Command is one bash call. ID is the tool-use id: a host that outlives its
// caller answers a repeated ID with the first run's result and never runs it
// again.
type Command struct {
	ID      string
	Text    string
	Timeout time.Duration // 0 means the host's default, 120 s
}

// Result is how a command ended. Output is stdout and stderr in the order
// they were written, cut in the middle when it was longer than the host
// keeps: Head, then Dropped bytes that are gone, then Tail.
type Result struct {
	Head     []byte
	Dropped  int64
	Tail     []byte
	ExitCode int // of the command, when End is Exited or ShellExited
	End      End
	OOM      bool // the memory limit killed something during the call
	Elapsed  time.Duration
}

// End is how a call came to its end.
type End string

const (
	Exited      End = "exited"       // the command ended by itself
	ShellExited End = "shell_exited" // it ended the shell (exit, exec); the next call gets a fresh one
	TimedOut    End = "timed_out"    // it was killed at its limit; the shell was replaced
	Interrupted End = "interrupted"  // the caller's context ended, or the host was restarted under it
	Incomplete  End = "incomplete"   // the text is no whole command (an open quote); nothing ran
	Refused     End = "refused"      // the host runs nothing more; Head says why
)

// Starter is a Host that runs programs of their own beside its shell.
type Starter interface {
	// Start starts a program in the working directory, with the environment
	// that the shell began with and the shell's rights. No command and no
	// Restart of the shell ends it; the end of the host does. What keeps it
	// from starting may be the first Read's error.
	Start(ctx context.Context, p Program) (Process, error)
}

// Program is a program to start.
type Program struct {
	Args []string          // the program, a path or a name on PATH, and its arguments
	Env  map[string]string // added to the shell's environment
}

// Process is a program that was started: Read gives its standard output, Write
// is its standard input, and both fail with a *ProcessEnd once it has ended. It
// waits when nobody reads. Close, and its own end, end what it started too; what
// has become a daemon may stay as long as the sandbox. One goroutine reads, one
// writes; Close may come from any.
type Process = io.ReadWriteCloser

// ProcessEnd is how a Process came to its end.
type ProcessEnd struct {
	Code   int    // its status; 128 and the signal's number after a signal
	Reason string // why it was ended or could not be started; "" when it ended by itself
	Errors []byte // the end of what it wrote to standard error
}

func (e *ProcessEnd) Error() string {
	if e.Reason != "" {
		return "the program has ended: " + e.Reason
	}
	return fmt.Sprintf("the program has ended with status %d", e.Code)
}

// ErrNoPrograms is the answer of a host that starts none.
var ErrNoPrograms = errors.New("this sandbox starts no programs beside its shell")

// Start has a host start a program, if it is a Starter.
func Start(ctx context.Context, h Host, p Program) (Process, error) {
	if s, ok := h.(Starter); ok {
		return s.Start(ctx, p)
	}
	return nil, ErrNoPrograms
}

// Failure is a Host's error with words for the model.
type Failure struct {
	Text string
	Err  error
}

func (f *Failure) Error() string { return f.Text + ": " + f.Err.Error() }

// Unwrap gives the cause.
func (f *Failure) Unwrap() error { return f.Err }

// Kinds of refusal by Files, beside fs.ErrNotExist, fs.ErrPermission and
// fs.ErrExist.
var (
	ErrOutside    = errors.New("is outside the session's working directory")
	ErrNotRegular = errors.New("is not a regular file")
	ErrIsDir      = errors.New("is a directory")
	ErrNotDir     = errors.New("not a directory")
	ErrReadOnly   = errors.New("is inside a read-only directory")
	ErrLoop       = errors.New("too many levels of symbolic links")
)

// Files is a session's file system. Names are as the model gives them:
// absolute paths inside the sandbox, or relative to the working directory.
// No name, link or race leads outside; devices, FIFOs and sockets are never
// opened.
type Files interface {
	// Open opens a regular file for reading.
	Open(name string) (File, error)
	Stat(name string) (fs.FileInfo, error)
	// WriteFile replaces a file's content in one step: a reader sees the old
	// or the new. Missing parents are made; an existing file keeps its mode,
	// owner and hard links; a link is followed to its target inside.
	WriteFile(name string, data []byte) error
	// Walk visits the tree under the directory root without following links,
	// directories before their contents; root itself is not visited. path is
	// absolute, as the tools see it. fn is called by one goroutine at a time
	// and may return fs.SkipDir or fs.SkipAll; an entry is good until fn
	// returns. Directories that cannot be read are left out and make the
	// answer a *WalkError. When ctx ends, so does Walk, with its cause.
	Walk(ctx context.Context, root string, fn func(path string, e Entry) error) error
}

// Timer is Files that look up the times of many files faster than one after
// the other.
type Timer interface {
	// WalkTimes is Walk for whoever wants times. pick is called as Walk's fn is
	// and chooses entries. found is called for each of them that is still there,
	// with its time of modification: one at a time, in any order, from any
	// goroutine, also while pick runs, and no more once WalkTimes has returned.
	WalkTimes(ctx context.Context, root string, pick func(path string, e Entry) (bool, error), found func(path string, modified time.Time)) error
}

// File is an open regular file.
type File interface {
	io.Reader
	io.ReaderAt
	io.Seeker
	io.Closer
	Stat() (fs.FileInfo, error)
}

// Entry is what Walk found. Open opens it without looking its name up again
// where the host can, and fails like Files.Open on what is no regular file.
type Entry interface {
	fs.DirEntry
	Open() (File, error)
}

// WalkError is Walk's answer when it visited everything but some directories
// that it could not read.
type WalkError struct {
	Dirs  int    // how many were left out, with all below them
	First string // the first of them, as the tools see it
	Err   error  // why it could not be read
}

// Add notes one more directory that was left out.
func (e *WalkError) Add(path string, err error) {
	if e.Dirs++; e.Dirs == 1 {
		e.First, e.Err = path, err
	}
}

func (e *WalkError) Error() string {
	return fmt.Sprintf("%d directories could not be read, first %s: %s", e.Dirs, e.First, e.Err)
}

func (e *WalkError) Unwrap() error { return e.Err }
