package docker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/client"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/agent"
	"github.com/berthdev/berth/internal/sandbox/inside"
)

const arch = runtime.GOARCH

// Where things are inside.
const (
	programPath = "/run/berth-agent"
	socketDir   = "/run/agent"
)

// Where things are in a sandbox's folder.
const (
	socketPart = sandbox.RunDirName + "/agent"
	passwdPart = sandbox.RunDirName + "/passwd"
	groupPart  = sandbox.RunDirName + "/group"
)

// defaultPIDs bounds processes and threads where the spec does not.
const defaultPIDs = 2048

// labels are on every container of ours.
var labels = map[string]string{"berth": "sandbox"}

// masked are the daemon's own masked paths, and all of /sys: what it tells of
// the machine is no session's business.
var masked = []string{
	"/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats",
	"/proc/sched_debug", "/proc/scsi", "/proc/interrupts", "/sys",
}

// folder makes the parts of a sandbox's folder that the container shows.
func folder(spec sandbox.Spec, h handle, im *image) error {
	at := func(part string) string { return filepath.Join(spec.Dir, part) }
	if err := os.MkdirAll(at(socketPart), 0o700); err != nil {
		return err
	}
	if err := os.Chmod(at(sandbox.RunDirName), 0o700); err != nil {
		return err
	}
	for part, b := range map[string][]byte{passwdPart: im.users(h.UID), groupPart: im.groups(h.GID)} {
		if err := os.WriteFile(at(part), b, 0o644); err != nil {
			return err
		}
	}
	if os.Geteuid() != 0 {
		return nil
	}
	return os.Chown(at(socketPart), h.UID, h.GID)
}

// lock keeps the session's processes away from the agent's socket, where this
// process may.
func lock(spec sandbox.Spec) error {
	if os.Geteuid() != 0 {
		return nil
	}
	dir := filepath.Join(spec.Dir, socketPart)
	if err := os.Chown(dir, 0, 0); err != nil {
		return err
	}
	return os.Chmod(dir, 0o700)
}

// options are all that the daemon is told of a sandbox.
func (d *Driver) options(spec sandbox.Spec, h handle, im *image, program string) (client.ContainerCreateOptions, error) {
	mounts, err := mounts(spec, im, program)
	if err != nil {
		return client.ContainerCreateOptions{}, err
	}
	user := ",uid=" + strconv.Itoa(h.UID) + ",gid=" + strconv.Itoa(h.GID)
	// What they hold is memory: all together they leave half to processes.
	part := inside.Scratch(spec.Limits) / int64(5+len(im.volumes))
	size := func(parts int64) string { return "," + inside.Sized(parts*part) }
	tmpfs := map[string]string{
		"/run": "mode=0755" + size(1) + user,
		// The shell's pipes have room of their own: a command that fills the
		// rest does not cut the agent off from its shell.
		inside.RunDir: "mode=0700,size=24m,nr_inodes=64" + user,
		inside.Home:   "exec,mode=0755" + size(2) + user,
	}
	// What an image declares as volumes is scratch, and bounded.
	for _, v := range im.volumes {
		if v = path.Clean(v); !slices.ContainsFunc(mounts, func(m mount.Mount) bool { return m.Target == v }) && tmpfs[v] == "" {
			tmpfs[v] = "exec,mode=0755" + size(1) + user
		}
	}
	init := false
	host := &container.HostConfig{
		AutoRemove: true, CgroupnsMode: "private", IpcMode: "private", UsernsMode: usernsMode, Runtime: d.cfg.Runtime,
		LogConfig: container.LogConfig{Type: "none"}, RestartPolicy: container.RestartPolicy{Name: "no"}, Init: &init,
		Tmpfs: tmpfs, Mounts: mounts, ShmSize: part,
		Sysctls: map[string]string{"kernel.shmall": strconv.FormatInt(part/4096, 10), "kernel.shmmax": strconv.FormatInt(part, 10)},
	}
	cfg := &container.Config{
		Image: im.ref, Hostname: "sandbox", WorkingDir: "/",
		Entrypoint: []string{programPath, "listen", path.Join(socketDir, "agent.sock")},
		Env:        []string{"GOMAXPROCS=1"}, Labels: labels,
		Healthcheck: &container.HealthConfig{Test: []string{"NONE"}},
	}
	for _, s := range []struct {
		name string
		set  func()
	}{
		{"user", func() { cfg.User = strconv.Itoa(h.UID) + ":" + strconv.Itoa(h.GID) }},
		{"network", func() { network(spec.Network.Mode, cfg, host) }},
		{"read-only root", func() { host.ReadonlyRootfs = true }},
		{"capabilities", func() { host.CapDrop = []string{"ALL"} }},
		{"no new privileges", func() { host.SecurityOpt = []string{noNewPrivileges} }},
		{"masked paths", func() { host.MaskedPaths = masked }},
		{"limits", func() { host.Resources = limits(spec.Limits) }},
	} {
		switch err := sandbox.Fault("docker " + s.name); {
		case err == nil:
			s.set()
		case !errors.Is(err, sandbox.ErrSkip):
			return client.ContainerCreateOptions{}, fmt.Errorf("docker: %s: %w", s.name, err)
		}
	}
	return client.ContainerCreateOptions{Config: cfg, HostConfig: host, Name: h.Container}, nil
}

func network(mode sandbox.NetworkMode, cfg *container.Config, host *container.HostConfig) {
	host.NetworkMode, cfg.NetworkDisabled = "none", true
	if mode == sandbox.NetworkHost {
		host.NetworkMode, cfg.NetworkDisabled, cfg.Hostname = "host", false, ""
	}
}

// noNewPrivileges is the option of that effect.
const noNewPrivileges = "no-new-privileges:true"

// usernsMode is the host's users: a session's tree belongs to its user there.
const usernsMode = "host"

// limits are those that the daemon enforces.
func limits(l sandbox.Limits) container.Resources {
	pids := int64(defaultPIDs)
	if l.PIDs > 0 {
		pids = int64(l.PIDs)
	}
	return container.Resources{PidsLimit: &pids, Memory: l.Memory, MemorySwap: l.Memory, NanoCPUs: int64(l.CPU * 1e9)}
}

// mounts are what the container shows of the host.
func mounts(spec sandbox.Spec, im *image, program string) ([]mount.Mount, error) {
	var list []mount.Mount
	bind := func(source, target string, readOnly bool) {
		list = append(list, mount.Mount{Type: mount.TypeBind, Source: source, Target: target, ReadOnly: readOnly,
			BindOptions: &mount.BindOptions{Propagation: mount.PropagationRPrivate}})
	}
	bind(program, programPath, true)
	bind(filepath.Join(spec.Dir, socketPart), socketDir, false)
	bind(filepath.Join(spec.Dir, passwdPart), "/etc/passwd", true)
	bind(filepath.Join(spec.Dir, groupPart), "/etc/group", true)
	if im.host {
		shown, err := show()
		if err != nil {
			return nil, err
		}
		for _, at := range shown {
			bind(at, at, true)
		}
	}
	frozen := agent.Frozen(spec)
	for _, place := range agent.Places(spec) {
		if place == spec.Workdir && spec.Share != "" || slices.Contains(frozen, place) { // the daemon takes no two for one place
			continue
		}
		bind(filepath.Join(spec.Tree, place), place, false)
	}
	if spec.Share != "" {
		bind(spec.Share, spec.Workdir, false)
	}
	for _, at := range frozen {
		bind(filepath.Join(spec.Tree, at), at, true)
	}
	if spec.Network.Socket != "" {
		bind(filepath.Dir(spec.Network.Socket), agent.EgressDir, true)
	}
	for _, m := range spec.Mounts {
		bind(m.Source, path.Clean(m.Target), m.ReadOnly)
	}
	return list, nil
}

// remove kills a container and waits until the daemon has forgotten it. None to
// remove is no error.
func remove(ctx context.Context, api *client.Client, id string) error {
	ctx, cancel := context.WithTimeout(ctx, removeTime)
	defer cancel()
	pause := 2 * time.Millisecond
	for {
		_, err := api.ContainerRemove(ctx, id, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
		switch {
		case errdefs.IsNotFound(err):
			return nil
		case err == nil, errdefs.IsConflict(err): // gone, or on its way
		default:
			return fmt.Errorf("docker: remove container %s: %w", id, err)
		}
		if err != nil {
			t := time.NewTimer(pause)
			select {
			case <-t.C:
			case <-ctx.Done():
				t.Stop()
				return fmt.Errorf("docker: remove container %s: %w", id, context.Cause(ctx))
			}
			pause = min(2*pause, 100*time.Millisecond)
			continue
		}
		return nil
	}
}

// removeTime bounds the end of a container.
const removeTime = 20 * time.Second

// environ is the tools' environment: the image's, and over it the session's.
func environ(spec sandbox.Spec, im *image) []string {
	vars := map[string]string{}
	for _, kv := range im.env {
		for i := range len(kv) {
			if kv[i] == '=' && i > 0 {
				vars[kv[:i]] = kv[i+1:]
				break
			}
		}
	}
	for _, own := range []string{"HOME", "USER", "LOGNAME", "SHELL", "PS1", "PS2"} {
		delete(vars, own)
	}
	maps.Copy(vars, spec.Env)
	vars["SHELL"] = im.bash
	spec.Env = vars
	return agent.Environ(spec, inside.Home, inside.User)
}
