package app

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/berthdev/berth/internal/config"
	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/cgroup"
	"github.com/berthdev/berth/internal/sandbox/disk"
	"github.com/berthdev/berth/internal/sandbox/removal"
	"github.com/berthdev/berth/toolset"
)

// SandboxConfig is what the verbs of `berth sandbox` need.
type SandboxConfig struct {
	Sandbox  config.Sandbox
	Policy   config.Policy
	StateDir string
	Log      *slog.Logger
}

// SandboxRun runs a command in a fresh sandbox, which is gone afterwards. out
// gets what the command writes, as it comes where the driver can.
func SandboxRun(ctx context.Context, c SandboxConfig, command []string, limit time.Duration, out io.Writer) (res toolset.Result, receipt sandbox.Receipt, err error) {
	err = within(ctx, c, func(held *sandbox.Held) (err error) {
		if receipt, err = sandbox.ReadReceipt(held.Sandbox().Record().Spec.Dir); err != nil {
			return err
		}
		res, err = stream(ctx, held.Sandbox(), toolset.Command{Text: words(command), Timeout: limit}, out)
		return err
	})
	return res, receipt, err
}

// within does something in a fresh sandbox, which is gone afterwards.
func within(ctx context.Context, c SandboxConfig, do func(*sandbox.Held) error) (err error) {
	pol, err := readPolicy(c.Policy)
	if err != nil {
		return err
	}
	state, err := os.MkdirTemp("", "berth-sandbox-")
	if err != nil {
		return err
	}
	defer removal.All(state)
	driver, version, err := chooseDriver(ctx, c.Sandbox.Sandbox, drivers(c.Sandbox, pol.Image, c.StateDir, c.Log))
	if err != nil {
		return err
	}
	spec, release, err := policySpec(ctx, pol, driver, imagesIn(c.StateDir), c.Log)
	if err != nil {
		return err
	}
	defer release()
	proxy, ways, err := openEgress(pol, state, c.Log)
	if err != nil {
		return err
	}
	if proxy != nil {
		defer proxy.Close()
	}
	keeper, _, err := newKeeper(ctx, config.Engine{}, spec, ways, driver, version, state, 0, c.Log)
	if err != nil {
		return err
	}
	if err := keeper.Start(ctx); err != nil {
		return err
	}
	after := context.WithoutCancel(ctx)
	defer func() { err = errors.Join(err, keeper.Stop(after)) }()
	held, _, err := keeper.Open(ctx, "sandbox_"+strings.ToLower(rand.Text()[:12]))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, held.Close(after, true)) }()
	return do(held)
}

// stream runs a command and gives its output out.
func stream(ctx context.Context, sb sandbox.Sandbox, c toolset.Command, out io.Writer) (toolset.Result, error) {
	var failed error
	write := func(b []byte) {
		if failed == nil {
			_, failed = out.Write(b)
		}
	}
	s, ok := sb.(interface {
		Stream(context.Context, toolset.Command, func([]byte)) (toolset.Result, error)
	})
	if ok {
		res, err := s.Stream(ctx, c, write)
		if res.End == toolset.Incomplete {
			write(res.Head)
		}
		return res, errors.Join(err, failed)
	}
	res, err := sb.Bash(ctx, c)
	write(res.Head)
	if res.Dropped > 0 {
		write(fmt.Appendf(nil, "\n... %d bytes left out ...\n", res.Dropped))
	}
	write(res.Tail)
	return res, errors.Join(err, failed)
}

// words writes a command's words so that a shell reads them as they are.
func words(command []string) string {
	quoted := make([]string, len(command))
	for i, w := range command {
		quoted[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
	}
	return strings.Join(quoted, " ")
}

// Way is a driver as `berth sandbox probe` shows it.
type Way struct {
	Name string `json:"name"`
	sandbox.Probe
	Capabilities sandbox.Capabilities `json:"capabilities"`
}

// disksHere says, once it is asked, whether disks can be made here.
func disksHere(log *slog.Logger) func() bool {
	return sync.OnceValue(func() bool {
		dir, err := os.MkdirTemp("", "berth-disk-")
		if err != nil {
			return false
		}
		defer os.RemoveAll(dir)
		pool, err := disk.NewPool(disk.Config{Dir: dir, Log: log})
		return err == nil && pool.Able() == nil
	})
}

// withDisk adds the limit that the keeper gives to a driver that shows the
// session's tree and has none of its own.
func withDisk(c sandbox.Capabilities, able func() bool) sandbox.Capabilities {
	if c.Tree && !slices.Contains(c.Limits, sandbox.LimitDisk) && able() {
		c.Limits = append(slices.Clip(c.Limits), sandbox.LimitDisk)
	}
	return c
}

// SandboxProbe asks the drivers, or the one that is named, whether they can run
// here.
func SandboxProbe(ctx context.Context, c SandboxConfig) ([]Way, error) {
	all := drivers(c.Sandbox, "", c.StateDir, c.Log)
	able := disksHere(c.Log)
	var ways []Way
	var names []string
	for _, d := range all {
		names = append(names, d.Name())
		if c.Sandbox.Sandbox == "auto" || c.Sandbox.Sandbox == d.Name() {
			p := d.Probe(ctx) // what it can do is known afterwards
			ways = append(ways, Way{d.Name(), p, withDisk(d.Capabilities(), able)})
		}
	}
	if len(ways) == 0 {
		return nil, &config.Error{Problem: fmt.Sprintf("--sandbox %q is unknown", c.Sandbox.Sandbox), Cure: "use auto, " + list(names)}
	}
	return ways, nil
}

// Sandboxes is what `berth sandbox list` shows. Running says that a worker
// uses the state directory.
type Sandboxes struct {
	Running bool            `json:"running"`
	Data    []sandbox.Entry `json:"data"`
}

// SandboxList tells what is in a worker's state directory.
func SandboxList(c SandboxConfig) (Sandboxes, error) {
	entries, err := sandbox.List(filepath.Join(c.StateDir, "sandboxes"))
	if entries == nil {
		entries = []sandbox.Entry{}
	}
	return Sandboxes{locked(c.StateDir), entries}, err
}

// Cleaned is what `berth sandbox gc` found and did.
type Cleaned struct {
	Running bool      `json:"running"` // a worker uses the state directory, and has what it uses
	Data    []Removal `json:"data"`
}

// Removal is one leftover.
type Removal struct {
	sandbox.Leftover
	Removed bool   `json:"removed"`
	Problem string `json:"problem,omitempty"`
}

// unusedAge is how old an empty cgroup of nobody known must be: a young one may
// be about to be used.
const unusedAge = 10 * time.Minute

// SandboxGC removes what workers left that are gone. Where one runs on the
// state directory it takes nothing that may be that worker's.
func SandboxGC(ctx context.Context, c SandboxConfig, dry bool) (Cleaned, error) {
	done := Cleaned{Data: []Removal{}}
	dir := filepath.Join(c.StateDir, "sandboxes")
	if _, err := os.Stat(c.StateDir); err == nil {
		lock, err := lockDir(c.StateDir, "--state-dir")
		if err == nil {
			defer lock.Release()
		} else if done.Running = locked(c.StateDir); !done.Running {
			return done, err
		}
	}
	all := drivers(c.Sandbox, "", c.StateDir, c.Log)
	var left []sandbox.Leftover
	var errs []error
	if !done.Running {
		folders, err := sandbox.Abandoned(dir, all)
		left, errs = append(left, folders...), append(errs, err)
	}
	for _, d := range all {
		things, err := sandbox.Leftovers(ctx, dir, []sandbox.Driver{d}, done.Running)
		if left = append(left, things...); err != nil && d.Name() != c.Sandbox.Sandbox {
			c.Log.Debug("what it may have left is not known", "sandbox", d.Name(), "err", err)
			continue
		}
		errs = append(errs, err)
	}
	if !done.Running {
		mounted, err := disk.Leftovers(dir)
		errs = append(errs, err)
		for _, folder := range mounted {
			left = append(left, sandbox.Leftover{Kind: "mount", Name: folder, Remove: func(context.Context) error { return disk.Unmount(folder) }})
		}
	}
	unused, err := cgroup.Unused(unusedAge)
	left, errs = append(left, unused...), append(errs, err)
	roots, err := unusedImages(c.StateDir, c.Log)
	left, errs = append(left, roots...), append(errs, err)
	var seen []string
	for _, l := range left {
		if slices.Contains(seen, l.Kind+l.Name) {
			continue
		}
		seen = append(seen, l.Kind+l.Name)
		r := Removal{Leftover: l}
		if !dry {
			if err := l.Remove(ctx); err != nil {
				r.Problem = err.Error()
				errs = append(errs, fmt.Errorf("%s %s: %w", l.Kind, l.Name, err))
			} else {
				r.Removed = true
			}
		}
		done.Data = append(done.Data, r)
	}
	return done, errors.Join(errs...)
}
