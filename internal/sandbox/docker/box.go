package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/berthdev/berth/internal/agentwire"
	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/agent"
	"github.com/berthdev/berth/internal/sandbox/cgroup"
	"github.com/berthdev/berth/internal/sandbox/tree"
)

// box is a container that can be given to a session later.
type box struct {
	*agent.Box
	driver *Driver
	group  *cgroup.Group // the container's; nil where it cannot be seen
}

var (
	_ sandbox.Assignable = (*box)(nil)
	_ sandbox.Prover     = (*box)(nil)
)

func (d *Driver) box(live *agent.Live, files *tree.Tree, rec sandbox.Record, release func()) *box {
	b := &box{Box: agent.NewBox(live, files, rec, d.end(rec, release)), driver: d, group: cgroup.Of(live.Process().Handle.PID)}
	bounds := agent.Bounds{Enforced: []sandbox.Limit{sandbox.LimitOpenFiles}}
	if b.group != nil {
		bounds.OOMs = b.group.OOMs
		held, _ := b.group.Held(rec.Spec.Limits, live.Process().Handle.PID)
		bounds.Enforced = append(bounds.Enforced, held...)
	}
	b.Bound(bounds)
	return b
}

// handle is the driver's own part of the record.
func (b *box) handle() (h handle, err error) {
	if err := json.Unmarshal(b.Record().Handle, &h); err != nil {
		return h, fmt.Errorf("record: %w", err)
	}
	return h, nil
}

// Assign gives the sandbox to a session. The container gets the session's name
// first: should this process end in between, it is one that nobody owns.
func (b *box) Assign(session, dir string) error {
	ctx, cancel := context.WithTimeout(context.Background(), askTime)
	defer cancel()
	api, _, err := b.driver.daemon.use(ctx)
	if err != nil {
		return err
	}
	rec := b.Record()
	h, err := b.handle()
	if err != nil {
		return err
	}
	if _, err := api.ContainerRename(ctx, h.Container, client.ContainerRenameOptions{NewName: sandbox.Label(dir)}); err != nil {
		return fmt.Errorf("docker: assign: %w", err)
	}
	if err := b.Box.Assign(session, dir, socketPart); err != nil {
		_, undo := api.ContainerRename(ctx, h.Container, client.ContainerRenameOptions{NewName: sandbox.Label(rec.Spec.Dir)})
		return errors.Join(err, undo)
	}
	return nil
}

// Prove is this driver's part of the proof: what the daemon says that it does,
// what is mounted inside, and the container's cgroup.
func (b *box) Prove(ctx context.Context, found agentwire.Posture) ([]sandbox.Check, error) {
	h, err := b.handle()
	if err != nil {
		return nil, err
	}
	api, _, err := b.driver.daemon.use(ctx)
	if err != nil {
		return nil, err
	}
	res, err := api.ContainerInspect(ctx, h.Container, client.ContainerInspectOptions{})
	if err != nil {
		return nil, fmt.Errorf("docker: %w", err)
	}
	host, cfg := res.Container.HostConfig, res.Container.Config
	if host == nil || cfg == nil {
		return nil, errors.New("docker: the daemon says nothing of the container")
	}
	var checks []sandbox.Check
	add := func(name, promised, found string) {
		checks = append(checks, sandbox.Check{Name: name, Promised: promised, Found: found, OK: found == promised})
	}
	spec := b.Record().Spec
	user := strconv.Itoa(h.UID)
	add("user of the container", user+":"+strconv.Itoa(h.GID), cfg.User)
	add("user inside", user, strconv.FormatUint(uint64(found.UIDs[0]), 10))
	add("container's network", wantedNetwork(spec), string(host.NetworkMode))
	add("container's root", "read-only", pick(host.ReadonlyRootfs, "read-only", "writable"))
	add("container's capabilities", "none", pick(dropped(host), "none", fmt.Sprint(host.CapAdd)+" without "+fmt.Sprint(host.CapDrop)))
	add("container's privileges", "no new ones", pick(!host.Privileged && slices.Contains(host.SecurityOpt, noNewPrivileges), "no new ones", fmt.Sprint(host.SecurityOpt)))
	add("container's published ports", "none", pick(len(host.PortBindings) == 0 && !host.PublishAllPorts, "none", "some"))
	add("paths of the kernel", "masked", pick(subset(masked, host.MaskedPaths), "masked", "seen"))
	checks = append(checks, agent.MountCheck(spec, found.Mounts, socketDir))
	if b.driver.cfg.Runtime != "" {
		add("container's runtime", b.driver.cfg.Runtime, host.Runtime)
	}
	b.proveLimits(add, spec, h.PID)
	return checks, nil
}

func wantedNetwork(spec sandbox.Spec) string {
	if spec.Network.Mode == sandbox.NetworkHost {
		return "host"
	}
	return "none"
}

func dropped(h *container.HostConfig) bool {
	return len(h.CapAdd) == 0 && len(h.CapDrop) == 1 && h.CapDrop[0] == "ALL"
}

func subset(a, b []string) bool {
	return !slices.ContainsFunc(a, func(s string) bool { return !slices.Contains(b, s) })
}

func pick(ok bool, yes, no string) string {
	if ok {
		return yes
	}
	return no
}

// proveLimits reads the container's cgroup back.
func (b *box) proveLimits(add func(name, promised, found string), spec sandbox.Spec, pid int) {
	asked := spec.Limits.Of(sandbox.LimitCPU, sandbox.LimitMemory, sandbox.LimitPIDs)
	if len(asked) == 0 || b.group == nil {
		return
	}
	held, in := b.group.Held(spec.Limits, pid)
	for _, l := range asked {
		add("limit "+string(l), "set", pick(slices.Contains(held, l), "set", "not set"))
	}
	add("cgroup", "inside", pick(in, "inside", "outside"))
}
