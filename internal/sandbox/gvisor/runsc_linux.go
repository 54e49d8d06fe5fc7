package gvisor

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/internal/crash"
	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/agent"
	"github.com/berthdev/berth/internal/sandbox/cgroup"
)

// oldest is the date in the version of the oldest runsc that the flags below
// were tried with: the one that make runsc builds.
const oldest = "20260905"

// runsc is gVisor's program on this machine.
type runsc struct {
	path string

	mu      sync.Mutex
	version string // of a program that was found good
}

func findRunsc(configured string) (*runsc, error) {
	if configured != "" {
		if _, err := os.Stat(configured); err != nil {
			return nil, fmt.Errorf("runsc: %w", err)
		}
		path, err := filepath.Abs(configured)
		return &runsc{path: path}, err
	}
	if self, err := os.Executable(); err == nil {
		for _, path := range []string{filepath.Join(filepath.Dir(self), "runsc"), filepath.Join(filepath.Dir(self), "bin", "runsc")} {
			if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() {
				return &runsc{path: path}, nil
			}
		}
	}
	path, err := exec.LookPath("runsc")
	if err != nil {
		return nil, errors.New("runsc is neither beside this program nor on the PATH")
	}
	path, err = filepath.Abs(path)
	return &runsc{path: path}, err
}

var dated = regexp.MustCompile(`(?:^|[^0-9])(20[0-9]{6})`)

// check asks the program what it is, once.
func (r *runsc) check(ctx context.Context) (version string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.version != "" {
		return r.version, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, r.path, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("%s --version: %w", r.path, err)
	}
	line, _, _ := strings.Cut(string(out), "\n")
	version, ok := strings.CutPrefix(line, "runsc version ")
	date := dated.FindStringSubmatch(version)
	if !ok || date == nil {
		return "", fmt.Errorf("%s is of a version without a date, %.60q", r.path, line)
	}
	if date[1] < oldest {
		return version, fmt.Errorf("%s is %s, older than %s", r.path, version, oldest)
	}
	r.version = version
	return version, nil
}

// launch is a sandbox for runsc to make.
type launch struct {
	run     string // the sandbox's own directory: its bundle, and runsc's log
	state   string // what runsc notes while it makes it
	program *agent.Program
	sockets string // what may be done with sockets among the host's files: create or all
	group   *cgroup.Group
}

// stateDir is for what runsc notes of a sandbox while it makes it. The path is
// short because a socket is in it.
func stateDir(label string) string {
	sum := sha256.Sum256([]byte(label))
	return filepath.Join("/run/berth-gvisor/states", hex.EncodeToString(sum[:8]))
}

// start makes the sandbox and comes back when its first process runs. runsc
// itself is gone by then; what stays are the sentry and its file server, which
// need no notes.
func (r *runsc) start(ctx context.Context, l launch) (sentry, gofer int, err error) {
	if err := errors.Join(os.RemoveAll(l.state), os.MkdirAll(l.state, 0o700)); err != nil {
		return 0, 0, fmt.Errorf("runsc: %w", err)
	}
	defer os.RemoveAll(l.state)
	log := filepath.Join(l.run, "log")
	cmd := exec.CommandContext(ctx, r.path,
		"--root="+l.state, "--log="+log, "--log-format=json",
		"--platform=systrap", "--network=none", "--gofer-network-namespace=new", "--overlay2=none",
		"--host-uds="+l.sockets, "--ignore-cgroups", "--host-settings=ignore", "--app-huge-pages=false",
		// It has threads spin for each other: a fifth more processor for nothing
		// where there are more sandboxes than processors.
		"--systrap-disable-fast-path=true",
		"run", "--detach", "--exec-fd=3", "--bundle="+filepath.Join(l.run, "bundle"), "berth")
	cmd.ExtraFiles = []*os.File{l.program.File()}
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "GOGC=20"}
	cmd.Dir = "/"
	// Its standard streams become those of the sandbox's first process: they
	// are nobody's.
	fault := sandbox.Fault("cgroup enter")
	if fault != nil && !errors.Is(fault, sandbox.ErrSkip) {
		return 0, 0, fault
	}
	if fd := l.group.FD(); fd >= 0 && fault == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: fd}
	}
	if err = cmd.Start(); err == nil {
		crash.At("gvisor runsc")
		if fault == nil {
			err = l.group.Enter(cmd.Process.Pid)
			crash.At("gvisor entered")
		}
		if err != nil {
			_ = cmd.Process.Kill()
		}
		err = errors.Join(err, cmd.Wait())
	}
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return 0, 0, fmt.Errorf("runsc: %w%s", err, complaint(log))
	}
	if sentry, gofer, err = pids(l.state); err != nil {
		return 0, 0, err
	}
	if fault != nil {
		return sentry, gofer, nil
	}
	return sentry, gofer, gather(l.group, sentry, gofer)
}

// gather puts in the group what runsc started before it was there itself. The
// agent waits for its Boot: the sentry makes no process meanwhile.
func gather(group *cgroup.Group, sentry, gofer int) error {
	done := map[int]bool{}
	for again := true; again; {
		again = false
		for _, pid := range append(descendants(sentry), sentry, gofer) {
			if done[pid] {
				continue
			}
			done[pid], again = true, true
			if err := group.Add(pid); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
		}
	}
	return nil
}

func descendants(pid int) []int {
	threads, _ := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/task/*/children")
	var all []int
	for _, path := range threads {
		b, _ := os.ReadFile(path)
		for _, f := range strings.Fields(string(b)) {
			if child, err := strconv.Atoi(f); err == nil {
				all = append(append(all, child), descendants(child)...)
			}
		}
	}
	return all
}

// complaint is the last error in a log of runsc's.
func complaint(log string) string {
	b, err := os.ReadFile(log)
	if err != nil {
		return ""
	}
	last := ""
	for line := range bytes.Lines(b) {
		var entry struct{ Msg, Level string }
		if json.Unmarshal(line, &entry) == nil && (entry.Level == "error" || entry.Level == "warning") {
			last = entry.Msg
		}
	}
	last = strings.TrimPrefix(strings.TrimSpace(last), "FATAL ERROR: ")
	if last == "" {
		return ""
	}
	return ": " + strings.ReplaceAll(last[:min(len(last), 500)], "\n", "; ")
}

// pids reads what runsc notes of a sandbox: the numbers of its processes.
func pids(state string) (sentry, gofer int, err error) {
	names, err := filepath.Glob(filepath.Join(state, "*.state"))
	if err != nil || len(names) != 1 {
		return 0, 0, fmt.Errorf("runsc left %d notes of its sandbox in %s", len(names), state)
	}
	b, err := os.ReadFile(names[0])
	if err != nil {
		return 0, 0, fmt.Errorf("runsc's note: %w", err)
	}
	var note struct {
		Sandbox  struct{ Pid int }
		GoferPid int
	}
	if err := json.Unmarshal(b, &note); err != nil {
		return 0, 0, fmt.Errorf("runsc's note: %w", err)
	}
	if note.Sandbox.Pid <= 1 {
		return 0, 0, errors.New("runsc's note names no process")
	}
	return note.Sandbox.Pid, note.GoferPid, nil
}
