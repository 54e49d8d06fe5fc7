// Package doctor says what works on this machine and how to cure what does
// not, by trying each thing.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/store"
)

// State is how a finding stands.
type State string

const (
	Good   State = "ok"
	Absent State = "absent" // not there, and not needed
	Bad    State = "failed" // not there, and needed
)

// Finding is one thing looked at. Detail and Cure are one line each.
type Finding struct {
	Name   string `json:"name"`
	State  State  `json:"state"`
	Detail string `json:"detail"`
	Cure   string `json:"cure,omitempty"`
}

// Report is everything looked at, in order. OK is false when a finding is
// Bad.
type Report struct {
	OK       bool      `json:"ok"`
	Findings []Finding `json:"findings"`
	Drivers  []Driver  `json:"drivers"`
}

// Driver is what a way to isolate tools enforces here, as it was proven on a
// sandbox that was started for it.
type Driver struct {
	Name string `json:"name"`
	sandbox.Probe
	Capabilities sandbox.Capabilities `json:"capabilities"`
	Checks       []sandbox.Check      `json:"checks,omitempty"`
}

// Config says what to look at. Zero fields are left out.
type Config struct {
	DataDir string
	// StateDir is the worker's, and Remote the control plane it serves, when
	// these are to be looked at.
	StateDir string
	Remote   *Remote
	Schema   func(context.Context) (store.SchemaStatus, error) // how the database stands; nil when there is none yet
	Addr     string                                            // where the control plane shall listen
	Drivers  []sandbox.Driver                                  // most isolating first
	Sandbox  string                                            // the driver asked for: a name or "auto"
	Model    func(context.Context) (string, error)             // which model is used; an error when none can be
	Git      func(context.Context) (string, error)             // which git fetches inputs; an error when none can
}

// Look tries everything. It changes nothing that lasts.
func Look(ctx context.Context, c Config) Report {
	r := Report{OK: true}
	add := func(f Finding) {
		r.OK = r.OK && f.State != Bad
		r.Findings = append(r.Findings, f)
	}
	if c.DataDir != "" {
		add(writable("data directory", "--data-dir", c.DataDir))
	}
	if c.Remote != nil {
		for _, f := range c.Remote.queue(ctx) {
			add(f)
		}
	}
	if c.StateDir != "" {
		add(writable("state directory", "--state-dir", c.StateDir))
		add(space(c.StateDir))
	}
	if c.Schema != nil {
		add(database(ctx, c.Schema))
	}
	if c.Addr != "" {
		add(port(c.Addr))
	}
	if c.Model != nil {
		add(provider(ctx, c.Model))
	}
	for _, d := range c.Drivers {
		r.Drivers = append(r.Drivers, prove(ctx, d))
	}
	for _, f := range sandboxes(r.Drivers, c.Sandbox) {
		add(f)
	}
	add(bash(ctx))
	if c.Git != nil {
		add(git(ctx, c.Git))
	}
	add(clock(time.Now(), buildTime))
	return r
}

// writable tries to write below dir, or below the nearest parent that is
// there.
func writable(name, flag, dir string) Finding {
	f := Finding{Name: name, Detail: dir}
	at := dir
	for {
		info, err := os.Stat(at)
		if err == nil && !info.IsDir() {
			f.State, f.Detail, f.Cure = Bad, at+" is not a directory", "choose another directory with "+flag
			return f
		}
		if err == nil {
			break
		}
		if parent := filepath.Dir(at); parent != at && errors.Is(err, os.ErrNotExist) {
			at = parent
			continue
		}
		f.State, f.Detail, f.Cure = Bad, err.Error(), "choose another directory with "+flag
		return f
	}
	probe, err := os.CreateTemp(at, ".berth-doctor-")
	if err != nil {
		f.State, f.Detail, f.Cure = Bad, "cannot write to "+at+": "+reason(err), "make it writable, or choose another directory with "+flag
		return f
	}
	probe.Close()
	os.Remove(probe.Name())
	f.State = Good
	if at != dir {
		f.Detail += " (will be made)"
	}
	return f
}

func reason(err error) string {
	if pe, ok := errors.AsType[*os.PathError](err); ok {
		return pe.Err.Error()
	}
	return err.Error()
}

func database(ctx context.Context, schema func(context.Context) (store.SchemaStatus, error)) Finding {
	f := Finding{Name: "database", State: Good}
	s, err := schema(ctx)
	switch {
	case errors.Is(err, os.ErrNotExist):
		f.Detail = "SQLite, not there yet (will be made)"
	case err != nil:
		f.State, f.Detail, f.Cure = Bad, err.Error(), "check --database and --data-dir, and that the server can be reached"
	case s.Current < s.Latest:
		f.Detail = fmt.Sprintf("opens; its schema is at %d of %d", s.Current, s.Latest)
		f.Cure = "berth migrate, or the next start, brings it up to date"
	case s.Current > s.Latest:
		f.State, f.Detail = Bad, fmt.Sprintf("its schema (%d) is newer than this program's (%d)", s.Current, s.Latest)
		f.Cure = "use the newer program"
	default:
		f.Detail = fmt.Sprintf("opens; its schema is up to date (%d)", s.Current)
	}
	return f
}

func port(addr string) Finding {
	f := Finding{Name: "address", State: Good, Detail: addr + " is free"}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		f.State, f.Detail = Bad, err.Error()
		f.Cure = "choose another with --addr (port 0 picks a free one)"
		if errors.Is(err, syscall.EADDRINUSE) {
			f.Detail = addr + " is in use"
			f.Cure = "stop what listens there, or choose another with --addr (port 0 picks a free one)"
		}
		return f
	}
	l.Close()
	return f
}

func provider(ctx context.Context, look func(context.Context) (string, error)) Finding {
	f := Finding{Name: "model", State: Good}
	detail, err := look(ctx)
	if f.Detail = detail; err != nil {
		f.State, f.Detail, f.Cure = Bad, err.Error(), "see berth serve --help for the model's settings"
	}
	return f
}

// prove probes a driver and has what it promises proven on a sandbox.
func prove(ctx context.Context, d sandbox.Driver) Driver {
	found := Driver{Name: d.Name(), Probe: d.Probe(ctx)}
	found.Capabilities = d.Capabilities()
	if !found.OK {
		return found
	}
	receipt, err := sandbox.Trial(ctx, d)
	if found.Checks = receipt.Checks; err != nil {
		found.OK, found.Reason = false, err.Error()
		found.Cure = "do not rely on it; report this with the output of berth doctor --json"
	}
	return found
}

// sandboxes judges the drivers. The one asked for must work; with "auto" one
// that isolates must.
func sandboxes(drivers []Driver, asked string) []Finding {
	var found []Finding
	isolated := false
	for _, d := range drivers {
		f := Finding{Name: "sandbox " + d.Name, State: Good}
		switch {
		case d.OK:
			f.Detail = promises(d.Capabilities)
			if d.Version != "" && d.Capabilities.Files {
				f.Detail = d.Version + ": " + f.Detail
			}
			if n := proven(d.Checks); n > 0 {
				f.Detail += fmt.Sprintf(" (proven by %d checks)", n)
			}
			isolated = isolated || d.Capabilities.Files
		case asked == d.Name:
			f.State, f.Detail, f.Cure = Bad, d.Reason, d.Cure
		default:
			f.State, f.Detail, f.Cure = Absent, d.Reason, d.Cure
		}
		found = append(found, f)
	}
	if asked == "auto" && len(drivers) > 0 && !isolated {
		found = append(found, Finding{Name: "isolation", State: Bad, Detail: "no driver can isolate tools on this machine",
			Cure: "cure one of the drivers above, or accept no isolation with --sandbox process"})
	}
	return found
}

// proven counts the checks of what is promised.
func proven(checks []sandbox.Check) (n int) {
	for _, c := range checks {
		if c.Promised != "nothing" {
			n++
		}
	}
	return n
}

// promises lists what a driver enforces.
func promises(c sandbox.Capabilities) string {
	var yes []string
	for _, p := range []struct {
		has  bool
		name string
	}{
		{c.Files, "own files"}, {c.Processes, "own processes"}, {c.Network, "no network"},
		{c.Privileges, "no privileges"}, {c.Syscalls, "filtered system calls"}, {c.Recover, "survives its worker"},
	} {
		if p.has {
			yes = append(yes, p.name)
		}
	}
	if !c.Files {
		return strings.Join(append([]string{"NO isolation"}, yes...), ", ")
	}
	return strings.Join(yes, ", ")
}

func bash(ctx context.Context) Finding {
	f := Finding{Name: "bash", State: Good}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "/bin/bash", "--noprofile", "--norc", "-c", "echo $BASH_VERSION").Output()
	if err != nil {
		f.State, f.Detail, f.Cure = Bad, "/bin/bash cannot be run: "+err.Error(), "install bash (apt-get install bash)"
		return f
	}
	f.Detail = "/bin/bash " + strings.TrimSpace(string(out))
	return f
}

// git is needed by sessions with repositories among their inputs alone.
func git(ctx context.Context, look func(context.Context) (string, error)) Finding {
	version, err := look(ctx)
	if err == nil {
		return Finding{Name: "git", State: Good, Detail: version + ", for inputs"}
	}
	why, cure, _ := strings.Cut(err.Error(), "; ")
	return Finding{Name: "git", State: Absent, Detail: why, Cure: cure + ", or do without repositories among the inputs"}
}

// buildTime is a time that any right clock is past.
var buildTime = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

func clock(now, past time.Time) Finding {
	f := Finding{Name: "clock", State: Good, Detail: now.UTC().Format(time.RFC3339)}
	if now.Before(past) {
		f.State, f.Cure = Bad, "set the clock; leases and ids are made from it"
		f.Detail += " is in the past"
	}
	return f
}
