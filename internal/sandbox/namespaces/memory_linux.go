package namespaces

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"

	"github.com/berthdev/berth/internal/agentwire"
	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/agent"
	"github.com/berthdev/berth/internal/sandbox/cgroup"
	"github.com/berthdev/berth/internal/sandbox/disk"
	"github.com/berthdev/berth/internal/sandbox/tree"
)

// diskDir is where the disk of an ordinary user's session is while its parts are
// shown at their places. From then on it is where the agent is, and nobody else.
const diskDir = "/run/disk"

// floats says whether the session's tree is to be in memory: an ordinary user
// can make no other file system of a size.
func (d *Driver) floats(spec sandbox.Spec) (bool, error) {
	limit, memory := spec.Limits.Disk, spec.Limits.Memory
	if d.power || limit <= 0 {
		return false, nil
	}
	var err error
	switch {
	case limit < disk.MinBytes:
		err = fmt.Errorf("a disk of %d bytes is less than the smallest, %d", limit, disk.MinBytes)
	case memory > 0 && limit > memory/2:
		err = fmt.Errorf("the disk of an ordinary user's session is in memory: %d bytes of it are more than half of the %d that the session may have; "+
			"raise memory, lower disk, or run the worker as root", limit, memory)
	default:
		return true, nil
	}
	if slices.Contains(spec.Limits.Required, sandbox.LimitDisk) {
		return false, err
	}
	d.log.Warn("a session's disk is not limited", "session", spec.SessionID, "err", err)
	return false, nil
}

// inMemory are the tree's parts that are then in memory: all but a shared one.
func inMemory(spec sandbox.Spec) []string {
	return slices.DeleteFunc(agent.Places(spec), func(p string) bool { return p == spec.Workdir && spec.Share != "" })
}

// memorySteps make the disk and show its parts; those that can only be read once
// more.
func memorySteps(spec sandbox.Spec) []agentwire.Step {
	steps := []agentwire.Step{{Kind: agentwire.StepDisk, Target: diskDir, Data: []byte(disk.MemoryOptions(spec.Limits.Disk))}}
	dir := func(path string) {
		steps = append(steps, agentwire.Step{Kind: agentwire.StepDir, Target: path, Mode: 0o755})
	}
	for _, place := range inMemory(spec) {
		dir(diskDir + place)
		dir(place)
	}
	dir(diskDir + spec.Workdir)
	dir(diskDir + "/mnt/session/outputs")
	for _, place := range inMemory(spec) {
		steps = append(steps, agentwire.Step{Kind: agentwire.StepSelf, Source: diskDir + place, Target: place})
	}
	for _, at := range agent.Frozen(spec) {
		dir(diskDir + at)
		steps = append(steps, agentwire.Step{Kind: agentwire.StepSelf, Source: diskDir + at, Target: at, ReadOnly: true})
	}
	return steps
}

// memoryHidden takes the disk out of sight, in the new root.
var memoryHidden = []agentwire.Step{{Kind: agentwire.StepEnter, Target: diskDir}, {Kind: agentwire.StepUnmount, Target: diskDir}}

// float brings the tree into the sandbox's memory. The files it gives are there,
// and those it is given are closed; on error they stay open.
func (d *Driver) float(ctx context.Context, spec sandbox.Spec, h handle, live *agent.Live, onDisk *tree.Tree) (*disk.Memory, *tree.Tree, error) {
	memory, err := open(spec, live.Process())
	if err != nil {
		return nil, onDisk, err
	}
	files, err := tree.Open(config(spec, h, memory))
	if err == nil {
		if err = memory.Fill(ctx, spec.Dir); err != nil {
			err = errors.Join(err, files.Close())
		}
	}
	if err != nil {
		memory.Close()
		return nil, onDisk, err
	}
	return memory, files, onDisk.Close()
}

// reach opens the memory of a sandbox that is to be taken over, and its process.
// Both are nil where there is none, and where the process is gone.
func reach(spec sandbox.Spec, h handle) (*disk.Memory, *agent.Process, error) {
	if !h.Memory || !disk.Adrift(spec.Dir) {
		return nil, nil, nil
	}
	p, err := agent.OpenHandle(h.Handle)
	if errors.Is(err, sandbox.ErrGone) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	memory, err := open(spec, p)
	if err != nil {
		p.Release()
		return nil, nil, err
	}
	return memory, p, nil
}

func open(spec sandbox.Spec, p *agent.Process) (*disk.Memory, error) {
	proc := "/proc/" + strconv.Itoa(p.Handle.PID)
	m, err := disk.OpenMemory(proc+"/root", proc+"/cwd", inMemory(spec), spec.Limits.Disk)
	if err == nil && p.Wait(0) == nil { // the number may be another's by now
		m.Close()
		err = sandbox.ErrGone
	}
	return m, err
}

// rescue brings the memory of a sandbox that could not be taken over to disk, if
// it has ended. When that fails it gives a sandbox that can only be stopped,
// which tries again.
func (d *Driver) rescue(rec sandbox.Record, h handle, group *cgroup.Group, memory *disk.Memory, proc *agent.Process, why error) (sandbox.Sandbox, error) {
	if !proc.Ended() {
		memory.Close()
		proc.Release()
		return nil, why
	}
	err := keep(d.log, rec.Spec, memory)
	if err != nil {
		files, open := tree.Open(config(rec.Spec, h, memory))
		if open == nil {
			return d.box(agent.Dead(proc), files, memory, rec, h, group, nil), nil
		}
		err = errors.Join(err, open)
	}
	memory.Close()
	proc.Release()
	return nil, errors.Join(why, err)
}

// config says where the session's files are; memory is nil where they are on
// disk.
func config(spec sandbox.Spec, h handle, memory *disk.Memory) tree.Config {
	c := agent.Tree(spec, h.UID, h.GID)
	if memory != nil {
		c.Parts = memory.Parts()
	}
	return c
}

// Stop ends the sandbox, and brings what is in its memory back to disk: also
// when not all of the rest could be cleared away. When that fails Stop can be
// called again.
func (b *box) Stop(ctx context.Context) error {
	err := b.Box.Stop(ctx)
	if b.memory == nil || !b.Process().Ended() {
		return err
	}
	return errors.Join(err, b.keep())
}

func (b *box) keep() error {
	b.keeping.Lock()
	defer b.keeping.Unlock()
	if b.kept {
		return nil
	}
	b.tree.Close()
	if err := keep(b.log, b.Record().Spec, b.memory); err != nil {
		return err
	}
	b.kept = true
	b.memory.Close()
	return nil
}

// keep brings the memory of a sandbox whose processes have ended to disk.
func keep(log *slog.Logger, spec sandbox.Spec, memory *disk.Memory) error {
	behind, err := memory.Keep(spec.Dir)
	switch {
	case err != nil:
		log.Error("a session's files are still in memory: they could not be brought to disk", "session", spec.SessionID, "dir", spec.Dir, "err", err)
	case behind.Entries > 0:
		log.Warn("some of a session's files stay behind: the disk's file system cannot have them",
			"session", spec.SessionID, "entries", behind.Entries, "first", behind.First, "err", behind.Why)
	}
	return err
}
