package docker

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/berthdev/berth/internal/agentwire"
	"github.com/berthdev/berth/internal/crash"
	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/agent"
	"github.com/berthdev/berth/internal/sandbox/inside"
)

// Driver makes sandboxes of containers. Safe for concurrent use.
type Driver struct {
	cfg    Config
	log    *slog.Logger
	daemon daemon
	ids    agent.Users

	loading   sync.Mutex
	loaded    map[string]string // images that were brought to the daemon, by where they lie
	installed string            // the agent's program, once it is in cfg.Dir

	mu     sync.Mutex
	images map[string]*image // by id
	probed bool              // the probe has been good once
}

var (
	_ sandbox.Driver  = (*Driver)(nil)
	_ sandbox.Cleaner = (*Driver)(nil)
)

// New makes the driver. Whether there is a daemon is for Probe to say.
func New(cfg Config) *Driver {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	host := cfg.Host
	if host == "" {
		host = usualHost
	}
	return &Driver{cfg: cfg, log: cfg.Log, daemon: daemon{host: host, runtime: cfg.Runtime}, loaded: map[string]string{}, images: map[string]*image{}}
}

// Name is "docker".
func (d *Driver) Name() string { return Name }

// Capabilities says what is enforced. The limits are those of the daemon, once
// it was asked.
func (d *Driver) Capabilities() sandbox.Capabilities {
	d.daemon.mu.Lock()
	info := d.daemon.info
	d.daemon.mu.Unlock()
	c := sandbox.Capabilities{
		Processes: true, Files: true, Network: true, Privileges: true, Syscalls: arch == "amd64" || arch == "arm64",
		Recover: true, Tree: true, Images: true, Egress: true, Mounts: true, HostNet: true, Limits: []sandbox.Limit{sandbox.LimitOpenFiles, sandbox.LimitCallTime, sandbox.LimitSessionTime},
	}
	for limit, can := range map[sandbox.Limit]bool{sandbox.LimitCPU: info.CPUCfsQuota, sandbox.LimitMemory: info.MemoryLimit, sandbox.LimitPIDs: info.PidsLimit} {
		if can {
			c.Limits = append(c.Limits, limit)
		}
	}
	return c
}

// Probe asks the daemon, then runs a command in a container, until that has
// worked once.
func (d *Driver) Probe(ctx context.Context) sandbox.Probe {
	_, info, err := d.daemon.use(ctx)
	if err != nil {
		why, cure := reason(err)
		return sandbox.Probe{Reason: why, Cure: cure}
	}
	p := sandbox.Probe{OK: true, Version: version(info, d.cfg.Runtime)}
	d.mu.Lock()
	probed := d.probed
	d.mu.Unlock()
	if probed {
		return p
	}
	if err := sandbox.Try(ctx, d, sandbox.Spec{Image: d.cfg.Image}); err != nil {
		p.OK = false
		p.Reason, p.Cure = reason(err)
		return p
	}
	d.mu.Lock()
	d.probed = true
	d.mu.Unlock()
	return p
}

// handle is what a record says of a sandbox of this driver.
type handle struct {
	agent.Handle
	Container string `json:"container"` // its name, then its id
	UID       int    `json:"uid"`
	GID       int    `json:"gid"`
}

// Start makes a sandbox.
func (d *Driver) Start(ctx context.Context, spec sandbox.Spec) (_ sandbox.Sandbox, err error) {
	if spec, err = agent.Fill(spec); err != nil {
		return nil, err
	}
	api, _, err := d.daemon.use(ctx)
	if err != nil {
		return nil, err
	}
	im, err := d.find(ctx, api, spec.Image)
	if err != nil {
		return nil, err
	}
	program, err := d.program()
	if err != nil {
		return nil, err
	}
	var undo sandbox.Undo
	defer undo.Run(&err)
	h := handle{Container: sandbox.Label(spec.Dir)}
	release, err := d.user(spec, &h)
	if err != nil {
		return nil, err
	}
	undo.Add(func() error { release(); return nil })
	uid, gid := h.owner()
	files, err := agent.OpenTree(spec, uid, gid, nil)
	if err != nil {
		return nil, err
	}
	undo.Add(func() error { return errors.Join(agent.CloseTree(spec, files), sandbox.Sweep(spec.Dir)) })
	live, rec, err := d.start(ctx, api, spec, h, im, program)
	if err != nil {
		return nil, err
	}
	return d.box(live, files, rec, release), nil
}

// makeTime bounds what a daemon takes to make a container.
const makeTime = time.Minute

// start makes the container and boots its agent. On error the container is
// gone.
func (d *Driver) start(ctx context.Context, api *client.Client, spec sandbox.Spec, h handle, im *image, program string) (live *agent.Live, rec sandbox.Record, err error) {
	if err := folder(spec, h, im); err != nil {
		return nil, rec, fmt.Errorf("docker: %w", err)
	}
	note := func() error {
		if rec, err = agent.NewRecord(Name, spec, h); err != nil {
			return err
		}
		return sandbox.WriteRecord(rec)
	}
	if err := note(); err != nil {
		return nil, rec, err
	}
	opts, err := d.options(spec, h, im, program)
	if err != nil {
		return nil, rec, err
	}
	crash.At("docker record")
	name := h.Container
	defer func() {
		if err != nil {
			err = errors.Join(err, remove(context.WithoutCancel(ctx), api, name))
		}
	}()
	// A daemon that nobody waits for any more makes it all the same.
	making, done := context.WithTimeout(context.WithoutCancel(ctx), makeTime)
	made, err := api.ContainerCreate(making, opts)
	done()
	if err == nil {
		err = cmp.Or(context.Cause(ctx), sandbox.Fault("docker create"))
	}
	if err != nil {
		return nil, rec, fmt.Errorf("docker: make a container: %w", err)
	}
	for _, w := range made.Warnings {
		d.log.Warn("the Docker daemon warns", "session", spec.SessionID, "warning", w)
	}
	crash.At("docker made")
	h.Container = made.ID
	if _, err = api.ContainerStart(ctx, made.ID, client.ContainerStartOptions{}); err == nil {
		err = sandbox.Fault("docker start")
	}
	if err != nil {
		return nil, rec, fmt.Errorf("docker: start a container: %w", err)
	}
	proc, err := d.process(ctx, api, made.ID)
	if err != nil {
		return nil, rec, err
	}
	h.Handle = proc.Handle
	crash.At("docker started")
	if err := note(); err != nil {
		proc.Release()
		return nil, rec, err
	}
	boot := agentwire.Boot{
		Seal: true, Bash: im.bash, Workdir: spec.Workdir, Env: environ(spec, im), RunDir: inside.RunDir,
		OutputBytes: spec.OutputBytes, OrphanTTL: spec.OrphanTTL,
		Egress: agent.Egress(spec.Network), Processes: spec.Limits.PIDs, OpenFiles: spec.Limits.OpenFiles,
	}
	live, err = agent.Attach(ctx, filepath.Join(spec.Dir, socketPart), boot, proc, func(ctx context.Context) error {
		return running(ctx, api, made.ID)
	})
	if err == nil {
		if err = sandbox.Fault("docker lock"); err == nil {
			err = lock(spec)
		}
	}
	if err != nil {
		if live != nil {
			live.Close()
		}
		proc.Release()
		return nil, rec, err
	}
	return live, rec, nil
}

// process finds a container's first process on this machine.
func (d *Driver) process(ctx context.Context, api *client.Client, id string) (*agent.Process, error) {
	res, err := api.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	if err != nil {
		return nil, fmt.Errorf("docker: %w", err)
	}
	if res.Container.State == nil || res.Container.State.Pid <= 0 {
		return nil, &trouble{"the agent ended as soon as its container started", "see that the agent's program runs on this machine"}
	}
	proc, err := agent.FindProcess(res.Container.State.Pid)
	if err != nil {
		return nil, &trouble{"the daemon's containers do not run on this machine, or this process sees another process table", "run the worker beside the daemon, and not in a container"}
	}
	return proc, nil
}

// running says why a container does not run.
func running(ctx context.Context, api *client.Client, id string) error {
	res, err := api.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	if err != nil {
		return fmt.Errorf("docker: the agent ended while it started: %w", err)
	}
	if st := res.Container.State; st != nil && !st.Running {
		return fmt.Errorf("docker: the agent ended with status %d while it started", st.ExitCode)
	}
	return nil
}

// user picks whom the session's processes are, inside and on the host: under
// root a user of the session's own, or the owner of a shared directory.
func (d *Driver) user(spec sandbox.Spec, h *handle) (release func(), err error) {
	h.UID, h.GID = os.Geteuid(), os.Getegid()
	switch {
	case h.UID != 0:
	case spec.Share != "":
		info, err := os.Stat(spec.Share)
		if err != nil {
			return nil, fmt.Errorf("docker: the shared directory: %w", err)
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok || st.Uid == 0 {
			return nil, &trouble{"the shared directory " + spec.Share + " belongs to root, and no session runs as root", "give it to another user (chown), or use --sandbox namespaces"}
		}
		h.UID, h.GID = int(st.Uid), int(st.Gid)
	default:
		h.UID = d.ids.Take(spec.SessionID)
		h.GID = h.UID
		return func() { d.ids.Release(h.UID) }, nil
	}
	return func() {}, nil
}

// owner is whose the session's files are on the host.
func (h handle) owner() (uid, gid int) {
	if os.Geteuid() != 0 {
		return -1, -1
	}
	return h.UID, h.GID
}

// program puts the agent where the daemon can show it.
func (d *Driver) program() (_ string, err error) {
	d.loading.Lock()
	defer d.loading.Unlock()
	if d.installed != "" {
		return d.installed, nil
	}
	p, err := d.cfg.Program.Or()
	if err != nil {
		return "", err
	}
	d.installed, err = p.Install(d.cfg.Dir)
	return d.installed, err
}

// Recover takes a sandbox over.
func (d *Driver) Recover(ctx context.Context, rec sandbox.Record) (sandbox.Sandbox, error) {
	api, _, err := d.daemon.use(ctx)
	if err != nil {
		return nil, err
	}
	var h handle
	if err := json.Unmarshal(rec.Handle, &h); err != nil {
		return nil, agent.Lost(ctx, rec.Spec, err, func(ctx context.Context) error {
			return errors.Join(remove(ctx, api, rec.Label), remove(ctx, api, sandbox.Label(rec.Spec.Dir))) // it may have been renamed
		})
	}
	release := func() { d.ids.Release(h.UID) }
	uid, gid := h.owner()
	live, files, err := agent.Takeover{
		Spec: rec.Spec, Agent: h.Handle, Socket: filepath.Join(rec.Spec.Dir, socketPart), Files: agent.Reopen(rec.Spec, uid, gid),
		End:   d.end(rec, release),
		Clear: func(ctx context.Context) error { return remove(ctx, api, h.Container) },
	}.Take(ctx)
	if err != nil {
		return nil, err
	}
	d.ids.Keep(h.UID)
	return d.box(live, files, rec, release), nil
}

// end removes the container, and with it all that runs inside.
func (d *Driver) end(rec sandbox.Record, release func()) func(context.Context, *agent.Live) error {
	return func(ctx context.Context, l *agent.Live) error {
		var h handle
		if err := json.Unmarshal(rec.Handle, &h); err != nil {
			return fmt.Errorf("record: %w", err)
		}
		api, _, err := d.daemon.use(ctx)
		if err == nil {
			err = remove(ctx, api, h.Container)
		}
		if err != nil {
			// The container's processes can be ended without the daemon, which
			// forgets the container by itself.
			return errors.Join(err, l.Process().Kill())
		}
		release()
		return nil
	}
}

var now = time.Now // a test turns it forward

// stillborn says that whoever made a container has ended before it was started:
// a worker that tried the driver or looked into an image, in no folder of
// sandboxes. The daemon removes those alone that have run.
func stillborn(c container.Summary) bool {
	return c.State == container.StateCreated && now().Sub(time.Unix(c.Created, 0)) > 10*makeTime
}

// Leftovers lists the containers that belong to nobody.
func (d *Driver) Leftovers(ctx context.Context, live func(name string) bool) ([]sandbox.Leftover, error) {
	api, _, err := d.daemon.use(ctx)
	if err != nil {
		return nil, err
	}
	res, err := api.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: make(client.Filters).Add("label", "berth=sandbox")})
	if err != nil {
		return nil, fmt.Errorf("docker: list containers: %w", err)
	}
	var left []sandbox.Leftover
	for _, c := range res.Items {
		name := c.ID
		if len(c.Names) > 0 {
			name = filepath.Base(c.Names[0])
		}
		if live(name) && !stillborn(c) {
			continue
		}
		left = append(left, sandbox.Leftover{Kind: "container", Name: name, Remove: func(ctx context.Context) error { return remove(ctx, api, c.ID) }})
	}
	return left, nil
}
