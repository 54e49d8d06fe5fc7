package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/berthdev/berth/internal/config"
	"github.com/berthdev/berth/internal/crash"
	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/command"
	"github.com/berthdev/berth/internal/sandbox/disk"
	"github.com/berthdev/berth/internal/sandbox/docker"
	"github.com/berthdev/berth/internal/sandbox/gvisor"
	"github.com/berthdev/berth/internal/sandbox/namespaces"
	"github.com/berthdev/berth/internal/sandbox/process"
	"github.com/berthdev/berth/internal/sandbox/tree"
	"github.com/berthdev/berth/internal/stage"
	"github.com/berthdev/berth/worker"
	"github.com/berthdev/berth/worker/memory"
)

// drivers lists the ways to run tools by name, most isolating first. What they
// keep is below state.
func drivers(c config.Sandbox, image, state string, log *slog.Logger) []sandbox.Driver {
	box := docker.Config{Host: c.DockerHost, Runtime: c.SandboxRuntime, Dir: filepath.Join(state, "cache", "agent"), Log: log}
	if image != "" {
		box.Image = &sandbox.Image{Ref: image}
	}
	return []sandbox.Driver{
		gvisor.New(gvisor.Config{Runsc: c.Runsc, Log: log}), namespaces.New(namespaces.Config{Log: log}),
		docker.New(box), command.New(command.Config{Command: c.SandboxCommand, Log: log}), process.New(process.Config{Log: log, User: c.ToolUser}),
	}
}

// byName are the drivers that are only ever chosen by name.
var byName = []string{docker.Name, command.Name, process.Name}

// later are drivers that this version knows the names of and nothing more.
var later = []string{"kubernetes"}

// chooseDriver gives the driver of a name, or for "auto" the best one that
// isolates and works here, and what it relies on.
func chooseDriver(ctx context.Context, name string, all []sandbox.Driver) (d sandbox.Driver, version string, err error) {
	names := make([]string, len(all))
	var refused []string
	var cure string
	for i, d := range all {
		names[i] = d.Name()
		if name != d.Name() && (name != "auto" || slices.Contains(byName, d.Name())) {
			continue
		}
		p := d.Probe(ctx)
		if p.OK {
			return d, p.Version, nil
		}
		refused = append(refused, d.Name()+": "+p.Reason)
		cure = p.Cure // of the last one: it asks for least
	}
	switch {
	case slices.Contains(later, name):
		return nil, "", &config.Error{Problem: "--sandbox " + name + " is not in this version yet", Cure: "use auto, " + list(names)}
	case len(refused) == 0:
		return nil, "", &config.Error{Problem: fmt.Sprintf("--sandbox %q is unknown", name), Cure: "use auto, " + list(names)}
	}
	if name == "auto" {
		cure += "; or run tools without isolation by --sandbox process"
	}
	return nil, "", &Error{Problem: "tools cannot be isolated here (" + strings.Join(refused, "; ") + ")", Cure: cure}
}

// list joins names as a sentence does.
func list(names []string) string {
	last := len(names) - 1
	if last < 1 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:last], ", ") + " or " + names[last]
}

// newKeeper makes the keeper of a worker's sandboxes below state. spec is the
// pattern of each.
func newKeeper(ctx context.Context, c config.Engine, spec sandbox.Spec, ways sandbox.Ways, d sandbox.Driver, version, state string, warm int, log *slog.Logger) (k *sandbox.Keeper, copied string, err error) {
	boxes := filepath.Join(state, "sandboxes")
	copied, err = setWorkdir(ctx, c, &spec, d, boxes, log)
	if err != nil {
		return nil, "", err
	}
	spec.Limits = spec.Limits.Or(sandbox.DefaultLimits(machineMemory()))
	var disks *disk.Pool
	if spec.Limits.Disk > 0 {
		if disks, err = disk.NewPool(disk.Config{Dir: filepath.Join(state, "disks"), Log: log}); err != nil {
			return nil, "", err
		}
	}
	retain := sandbox.Retain{Age: c.KeepWorkspaces, Bytes: int64(c.KeepWorkspaceBytes)}
	k, err = sandbox.NewKeeper(sandbox.KeeperConfig{Driver: d, Dir: boxes, Spec: spec, Ways: ways, Disks: disks, Warm: warm, Ended: keepOutputs(state, log),
		Retain: retain, Retained: func(now time.Time) { forgetOutputs(state, retain, now, log) }, Version: version, Log: log, At: crash.At})
	return k, copied, err
}

// machineMemory is the machine's, in bytes; 0 where the kernel does not say.
func machineMemory() int64 {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		var kib int64
		if n, _ := fmt.Sscanf(line, "MemTotal: %d kB", &kib); n == 1 {
			return kib << 10
		}
	}
	return 0
}

// hosts gives a keeper's sandboxes to the worker.
type hosts struct {
	*sandbox.Keeper
	stager *stage.Stager
	copied string // a directory of which each tree gets a copy as its working directory
	lasts  bool   // its sandboxes outlive this process
	log    *slog.Logger
}

// Open opens the session's sandbox.
func (h hosts) Open(ctx context.Context, o worker.Opening) (worker.Sandbox, bool, error) {
	parts, err := h.parts(o.Folders)
	if err != nil {
		return nil, false, err
	}
	held, lost, err := h.Keeper.Open(ctx, o.Session.ID, parts...)
	if err != nil {
		return nil, false, err
	}
	if err := h.stageInputs(ctx, o.Session, held); err != nil {
		if cerr := held.Close(context.WithoutCancel(ctx), false); cerr != nil {
			h.log.Warn("the sandbox of a session without its inputs did not end", "session", o.Session.ID, "err", cerr)
		}
		return nil, false, err
	}
	h.lend(ctx, o, held)
	return host{held, h.lasts}, lost, nil
}

// parts are the folders that a sandbox does not show by itself.
func (h hosts) parts(folders []worker.Folder) ([]sandbox.Part, error) {
	spec := h.Spec()
	var parts []sandbox.Part
	below := func(at, dir string) bool { return strings.HasPrefix(at, dir+"/") }
	for _, f := range folders {
		if !path.IsAbs(f.Path) {
			continue // below the working directory
		}
		refuse := func(why string) ([]sandbox.Part, error) {
			return nil, &worker.OpenError{Text: fmt.Sprintf("the session's folder %q cannot be shown: %s", f.Path, why), Final: true}
		}
		own := sandbox.Reserved(f.Path)
		inWorkdir := below(f.Path, spec.Workdir)
		shown := inWorkdir || f.Path == "/mnt/memory" || slices.ContainsFunc(tree.Prefixes, func(p string) bool { return below(f.Path, p) })
		switch {
		case inWorkdir && spec.Share != "":
			return refuse("sessions share their working directory")
		case inWorkdir && spec.View != "" && f.ReadOnly:
			return refuse("the working directory is a view, of which no part can be read-only")
		case !shown && own != "":
			return refuse(own + " is the sandbox's own")
		case !shown && (f.Path == spec.Workdir || below(spec.Workdir, f.Path)):
			return refuse("the working directory is there")
		case !shown || f.ReadOnly:
			parts = append(parts, sandbox.Part{Path: f.Path, ReadOnly: f.ReadOnly})
		}
	}
	return parts, nil
}

// host is a session's sandbox as the worker knows it.
type host struct {
	*sandbox.Held
	lasts bool
}

// Birth names the sandbox, when it can be found again by another process.
func (h host) Birth() string {
	if !h.lasts {
		return ""
	}
	rec := h.Sandbox().Record()
	return rec.StartedAt.Format(time.RFC3339Nano) + " " + string(rec.Handle)
}

// Folder gives a directory of the session, for what is kept in step with it. It
// fulfils memory.Holder.
func (h host) Folder(at string) (memory.Folder, error) {
	files, ok := h.Files().(*tree.Tree)
	if !ok {
		return nil, errors.New("sandboxes of this kind have no files")
	}
	return files.Folder(at)
}

var _ memory.Holder = host{}
