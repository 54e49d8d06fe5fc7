package agent

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/internal/agentwire"
	"github.com/berthdev/berth/internal/sandbox"
)

// spaces are the namespaces that a launch asks for, by their names in /proc.
var spaces = []struct {
	name string
	flag uintptr
}{
	{"user", unix.CLONE_NEWUSER}, {"mnt", unix.CLONE_NEWNS}, {"pid", unix.CLONE_NEWPID}, {"net", unix.CLONE_NEWNET},
	{"ipc", unix.CLONE_NEWIPC}, {"uts", unix.CLONE_NEWUTS}, {"cgroup", unix.CLONE_NEWCGROUP},
}

// faults lets tests have a part of the launch fail or go missing: a namespace,
// a step that builds the inside, a flag of a mount, a part of the seal.
func faults(l *Launch) error {
	if l.Sys != nil {
		for _, s := range spaces {
			if l.Sys.Cloneflags&s.flag == 0 {
				continue
			}
			err := sandbox.Fault("namespace " + s.name)
			// Without its user namespace the rest would be done to the host.
			if err != nil && (s.name == "user" || !errors.Is(err, sandbox.ErrSkip)) {
				return err
			}
			if err != nil {
				l.Sys.Cloneflags &^= s.flag
			}
		}
	}
	steps := l.Boot.Steps[:0:0]
	for _, s := range l.Boot.Steps {
		err := sandbox.Fault("step " + s.Kind.String() + " " + s.Target)
		switch {
		case errors.Is(err, sandbox.ErrSkip):
			continue
		case err != nil:
			s.Kind = 0 // which no agent knows
		}
		if s.Kind == agentwire.StepBind {
			for _, f := range []struct {
				name string
				flag *bool
				lost bool
			}{{"read-only", &s.ReadOnly, false}, {"nodev", &s.Devices, true}, {"nosuid", &s.Setuid, true}} {
				if *f.flag != f.lost && sandbox.Fault("flag "+f.name+" of "+s.Target) != nil {
					*f.flag = f.lost
				}
			}
		}
		steps = append(steps, s)
	}
	l.Boot.Steps = steps
	if !l.Boot.Seal {
		return nil
	}
	for _, part := range agentwire.SealParts {
		switch err := sandbox.Fault("seal " + part); {
		case errors.Is(err, sandbox.ErrSkip):
			l.Boot.Fault = "skip " + part
		case err != nil:
			l.Boot.Fault = "fail " + part
		}
	}
	return nil
}
