package gvisor

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthdev/berth/internal/agentwire"
	"github.com/berthdev/berth/internal/crash"
	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/agent"
	"github.com/berthdev/berth/internal/sandbox/inside"
)

const (
	hostname = "sandbox"
	// door is where the agent's socket is inside, until it has been made.
	door = "/run/door"
	// groups is where the sentry's own control groups are, until they are set.
	groups = "/sys/fs/cgroup"
)

// maxProcesses bounds the processes and threads of a sandbox without a limit:
// the sentry heeds no resource limit of that kind.
const maxProcesses = 512

func processes(spec sandbox.Spec) int {
	if n := spec.Limits.PIDs; n > 0 {
		return n
	}
	return maxProcesses
}

// rootsDir holds the empty roots on which everything is mounted. Each is made
// once and only read; the sentry's user must reach it, so it lies in no private
// directory.
const rootsDir = "/run/berth-gvisor/roots"

// bundle is what runsc is told of a sandbox, and what the agent has to do once
// it runs.
type bundle struct {
	config specs.Spec
	steps  []agentwire.Step
	bash   string
}

// newBundle plans the inside.
func (d *Driver) newBundle(spec sandbox.Spec, h handle, run string) (*bundle, error) {
	own := []string{"dev", "home", "proc", "run", "sys"}
	places := agent.Places(spec)
	for _, at := range places {
		own = append(own, strings.Split(at, "/")[1])
	}
	for _, m := range spec.Mounts {
		own = append(own, strings.Split(path.Clean(m.Target), "/")[1])
	}
	root, mounts, bash, err := programs(spec, own)
	if err != nil {
		return nil, err
	}
	user := spec.User.Filled()
	size := "512m"
	if most := spec.Limits.Memory / 8; most > 0 && most < 512<<20 {
		size = strconv.FormatInt(most, 10)
	}
	memory := func(at string, mode string, size string) {
		mounts = append(mounts, specs.Mount{Destination: at, Type: "tmpfs", Source: "tmpfs",
			Options: []string{"nosuid", "nodev", "mode=" + mode, "size=" + size, "uid=" + strconv.Itoa(user.UID), "gid=" + strconv.Itoa(user.UID)}})
	}
	show := func(source, at string, options ...string) {
		mounts = append(mounts, specs.Mount{Destination: at, Type: "bind", Source: source, Options: append([]string{"rbind", "nosuid", "nodev"}, options...)})
	}
	mounts = append(mounts, specs.Mount{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "nodev", "noexec"}})
	memory("/dev/shm", "1777", size)
	memory("/run", "0755", size)
	memory(inside.RunDir, "0700", "24m")
	memory("/home", "0755", size)
	memory(user.Home(), "0755", size)
	show(filepath.Join(run, "door"), door, "noexec")
	for _, place := range places {
		if place != spec.Workdir || spec.Share == "" {
			show(filepath.Join(spec.Tree, place), place)
		}
	}
	if spec.Share != "" {
		show(spec.Share, spec.Workdir)
		if err := disguise(&mounts[len(mounts)-1], h); err != nil {
			return nil, err
		}
	}
	for _, at := range agent.Frozen(spec) {
		show(filepath.Join(spec.Tree, at), at, "ro")
	}
	if spec.Network.Socket != "" {
		show(filepath.Dir(spec.Network.Socket), agent.EgressDir, "ro", "noexec")
	}
	for _, m := range spec.Mounts {
		if m.ReadOnly {
			show(m.Source, m.Target, "ro")
		} else {
			show(m.Source, m.Target)
		}
	}
	mounts = append(mounts, specs.Mount{Destination: groups, Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "nodev", "noexec"}})
	b := &bundle{bash: bash, steps: []agentwire.Step{
		{Kind: agentwire.StepFile, Target: groups + "/pids/pids.max", Data: []byte(strconv.Itoa(processes(spec)))},
		{Kind: agentwire.StepUnmount, Target: "/sys"},
		{Kind: agentwire.StepUnmount, Target: door},
	}}
	for _, m := range mounts {
		if !strings.HasPrefix(m.Destination, "/proc") && !strings.HasPrefix(m.Destination, "/sys") {
			root = append(root, agentwire.Step{Kind: agentwire.StepDir, Target: m.Destination, Mode: 0o755})
		}
	}
	empty, err := makeRoot(sandbox.Label(spec.Dir), root)
	if err != nil {
		return nil, err
	}
	caps := []string{"CAP_SYS_ADMIN", "CAP_SETPCAP", "CAP_SYS_RESOURCE", "CAP_DAC_OVERRIDE"}
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: uint32(h.sentry()), Size: 1}, {ContainerID: uint32(user.UID), HostID: uint32(h.UID), Size: 1}}
	b.config = specs.Spec{
		Version: "1.2.0", Hostname: hostname, Mounts: mounts, Root: &specs.Root{Path: empty, Readonly: true},
		Process: &specs.Process{
			User: specs.User{UID: uint32(user.UID), GID: uint32(user.UID)}, Cwd: "/", NoNewPrivileges: true,
			Args: []string{"berth-agent", "listen", sandbox.SocketPath(door)}, Env: []string{"GOMAXPROCS=1"},
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps, Inheritable: caps, Ambient: caps},
		},
		Linux: &specs.Linux{
			UIDMappings: ids, GIDMappings: ids,
			Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace}, {Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace}, {Type: specs.MountNamespace}, {Type: specs.UserNamespace}},
		},
	}
	return b, nil
}

// write puts the plan where runsc reads it.
func (b *bundle) write(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	text, err := json.Marshal(b.config)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "config.json"), text, 0o600)
}

// programs is where the session's programs come from: what the empty root
// holds, and what is mounted on it, read-only.
func programs(spec sandbox.Spec, own []string) (root []agentwire.Step, mounts []specs.Mount, bash string, err error) {
	var steps []agentwire.Step
	if spec.Image == nil {
		bash = "/bin/bash"
		steps, err = inside.Root(spec)
	} else if _, bash, err = inside.Over(spec); err == nil {
		steps, err = imageRoot(spec.Image.Root, own)
	}
	if err != nil {
		return nil, nil, "", err
	}
	for _, s := range steps {
		if s.Kind != agentwire.StepBind {
			root = append(root, s)
			continue
		}
		st, err := os.Stat(s.Source)
		if err != nil {
			return nil, nil, "", err
		}
		if st.IsDir() {
			mounts = append(mounts, specs.Mount{Destination: s.Target, Type: "bind", Source: s.Source, Options: []string{"rbind", "ro", "nosuid", "nodev"}})
			continue
		}
		// A copy costs less than a mount.
		text, err := os.ReadFile(s.Source)
		if err != nil {
			return nil, nil, "", err
		}
		root = append(root, agentwire.Step{Kind: agentwire.StepFile, Target: s.Target, Data: text, Mode: 0o644})
	}
	return root, mounts, bash, nil
}

// imageRoot shows what is at the top of an image, but where the sandbox has
// something of its own.
func imageRoot(root string, own []string) ([]agentwire.Step, error) {
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil, fmt.Errorf("the image: %w", err)
	}
	var steps []agentwire.Step
	for _, e := range entries {
		at, source := "/"+e.Name(), filepath.Join(root, e.Name())
		switch {
		case slices.Contains(own, e.Name()):
		case e.Type()&fs.ModeSymlink != 0:
			to, err := os.Readlink(source)
			if err != nil {
				return nil, fmt.Errorf("the image: %w", err)
			}
			steps = append(steps, agentwire.Step{Kind: agentwire.StepLink, Target: at, Source: to})
		case e.IsDir():
			steps = append(steps, agentwire.Step{Kind: agentwire.StepBind, Target: at, Source: source, ReadOnly: true})
		}
	}
	return steps, nil
}

// disguise shows the files of a shared directory's owner as the session's
// user's own: on disk they stay what they are.
func disguise(m *specs.Mount, h handle) error {
	uid, gid, err := owner(m.Source)
	if err != nil {
		return err
	}
	// What is made is the sentry's for a moment.
	made := specs.LinuxIDMapping{ContainerID: uint32(h.sentry()), HostID: uint32(h.sentry()), Size: 1}
	m.UIDMappings = []specs.LinuxIDMapping{{ContainerID: uid, HostID: uint32(h.UID), Size: 1}, made}
	m.GIDMappings = []specs.LinuxIDMapping{{ContainerID: gid, HostID: uint32(h.UID), Size: 1}, made}
	return nil
}

// makeRoot makes the root that steps describe, or finds it: what is in it is
// its name. Nobody writes to one that is there. While it is made its name begins
// with the sandbox's label.
func makeRoot(label string, steps []agentwire.Step) (string, error) {
	text, err := json.Marshal(steps)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(text)
	path := filepath.Join(rootsDir, hex.EncodeToString(sum[:12]))
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if err := os.MkdirAll(rootsDir, 0o755); err != nil {
		return "", fmt.Errorf("make a root: %w", err)
	}
	temp, err := os.MkdirTemp(rootsDir, label+".new-")
	if err != nil {
		return "", fmt.Errorf("make a root: %w", err)
	}
	defer os.RemoveAll(temp)
	crash.At("gvisor root")
	if err := fill(temp, steps); err != nil {
		return "", fmt.Errorf("make a root: %w", err)
	}
	// Another worker may have been quicker.
	if err := os.Rename(temp, path); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("make a root: %w", err)
	}
	return path, nil
}

func fill(dir string, steps []agentwire.Step) error {
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, s := range steps {
		name := strings.TrimPrefix(s.Target, "/")
		if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		switch s.Kind {
		case agentwire.StepDir:
			err = root.MkdirAll(name, fs.FileMode(s.Mode))
		case agentwire.StepFile:
			err = root.WriteFile(name, s.Data, fs.FileMode(s.Mode))
		case agentwire.StepLink:
			err = root.Symlink(s.Source, name)
		default:
			err = fmt.Errorf("a step of kind %d makes no root", s.Kind)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
