package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/tree"
	"github.com/berthdev/berth/toolset"
)

// Box is a sandbox around an agent: the agent's shell, the session's files,
// and a way to end it. It fulfils sandbox.Sandbox.
type Box struct {
	*Live
	files Files
	end   func(ctx context.Context, l *Live) error

	bounds  Bounds
	expired atomic.Bool // the session's time is over

	mu       sync.Mutex
	record   sandbox.Record
	deadline *time.Timer // nil where the session's time is not bounded
	until    time.Time   // when it is over
	way      sandbox.Way // nil without one
	ended    bool        // end has been called, and nothing runs
	stopped  bool
}

// Files are a session's files until Close.
type Files interface {
	toolset.Files
	Close() error
}

var _ sandbox.Sandbox = (*Box)(nil)

// NewBox puts a box around a live agent. end kills everything inside and
// comes back when it is gone.
func NewBox(l *Live, files Files, rec sandbox.Record, end func(context.Context, *Live) error) *Box {
	b := &Box{Live: l, files: files, record: rec, end: end}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.arm()
	return b
}

// Files are the session's files.
func (b *Box) Files() toolset.Files { return b.files }

// Workdir is the working directory as the tools see it.
func (b *Box) Workdir() string { return b.Record().Spec.Workdir }

// Record is what Recover needs.
func (b *Box) Record() sandbox.Record {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.record
}

// Assign gives the sandbox to a session by renaming its folder to dir, where
// nothing may be yet. The agent's socket is in the folder's part socket, "" for
// the folder itself. On error everything is as it was.
func (b *Box) Assign(session, dir, socket string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopped {
		return errStopped
	}
	if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("agent: assign: %s is there already", dir)
	}
	rec, old := b.record, b.record.Spec.Dir
	rec.SessionID, rec.Spec.SessionID = session, session
	rec.Spec.Dir, rec.Spec.Tree = dir, filepath.Join(dir, "tree")
	if since, err := sandbox.Taken(old); err == nil { // as whoever reads the record has it
		rec.StartedAt = since
	}
	if err := os.Rename(old, dir); err != nil {
		return fmt.Errorf("agent: assign: %w", err)
	}
	b.record = rec
	if b.way != nil {
		b.way.Assign(session)
	}
	b.arm()
	b.Moved(filepath.Join(dir, socket))
	return nil
}

// Attach has the sandbox close its way out when it stops.
func (b *Box) Attach(w sandbox.Way) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.way = w
}

// Stop ends every process and removes everything but the tree.
func (b *Box) Stop(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopped {
		return nil
	}
	if !b.ended {
		if err := b.end(ctx, b.Live); err != nil {
			return err
		}
	}
	b.Live.Close()
	if b.proc != nil {
		b.proc.Release()
	}
	return b.leave()
}

// leave removes what is left beside the tree. b.mu is held.
func (b *Box) leave() error {
	b.ended, b.stopped = true, true
	if b.deadline != nil {
		b.deadline.Stop()
	}
	var way error
	if b.way != nil {
		way = b.way.Close()
	}
	return errors.Join(way, b.files.Close(), HideView(b.record.Spec), sandbox.Sweep(b.record.Spec.Dir))
}

// Renew ends the box with another around its agent, which next makes: with its
// error this one is still to be stopped.
func (b *Box) Renew(next func(*Live, sandbox.Record) (sandbox.Sandbox, error)) (sandbox.Sandbox, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopped || b.ended {
		return nil, errStopped
	}
	sb, err := next(b.Live, b.record)
	if err != nil {
		return nil, err
	}
	if err := b.leave(); err != nil {
		return nil, errors.Join(err, sb.Stop(context.Background()))
	}
	return sb, nil
}

// Fill checks a spec and puts the defaults in.
func Fill(s sandbox.Spec) (sandbox.Spec, error) {
	if s.SessionID == "" || s.Dir == "" || s.Tree == "" {
		return s, errors.New("a sandbox needs a session, a folder and a tree")
	}
	if s.Workdir == "" {
		s.Workdir = "/workspace"
	}
	s.Workdir = path.Clean(s.Workdir)
	if !path.IsAbs(s.Workdir) {
		return s, fmt.Errorf("the working directory %q is not absolute", s.Workdir)
	}
	for _, p := range reserved {
		if s.Workdir == p || strings.HasPrefix(s.Workdir, p+"/") && p != "/" {
			return s, fmt.Errorf("the working directory cannot be %s: that part is the sandbox's own", s.Workdir)
		}
	}
	if s.Share != "" {
		st, err := os.Stat(s.Share)
		if err != nil {
			return s, fmt.Errorf("the shared directory: %w", err)
		}
		if !st.IsDir() {
			return s, fmt.Errorf("%s, to be shared, is not a directory", s.Share)
		}
	}
	for k := range s.Env {
		if k == "" || strings.ContainsAny(k, "=\x00") || strings.ContainsRune(s.Env[k], 0) {
			return s, fmt.Errorf("%q is no name of a variable, or its value is none", k)
		}
	}
	if s.Network.Mode == sandbox.NetworkAllow && s.Network.Socket == "" {
		return s, errors.New("a session that may reach hosts needs the socket of its proxy")
	}
	s.User = s.User.Filled()
	if s.OutputBytes <= 0 {
		s.OutputBytes = sandbox.DefaultOutputBytes
	}
	if s.OrphanTTL <= 0 {
		s.OrphanTTL = sandbox.DefaultOrphanTTL
	}
	return s, nil
}

// reserved are places that no working directory can take.
var reserved = []string{"/", "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/sys", "/dev", "/etc", "/run"}

// Places are the paths inside that come from the tree. A view is one of its
// own, wherever it is.
func Places(s sandbox.Spec) []string {
	places := append([]string(nil), tree.Prefixes...)
	if s.View != "" && !slices.Contains(places, s.Workdir) {
		places = append(places, s.Workdir)
	}
	add := func(at string) {
		if !slices.ContainsFunc(places, func(p string) bool { return at == p || strings.HasPrefix(at, p+"/") }) {
			places = append(places, at)
		}
	}
	add(s.Workdir)
	for _, f := range s.Parts {
		add(f.Path)
	}
	return places
}

// Frozen are the places below or among Places that are shown read-only, over
// what is shown there already.
func Frozen(s sandbox.Spec) []string {
	var all []string
	for _, f := range s.Parts {
		if f.ReadOnly {
			all = append(all, f.Path)
		}
	}
	return all
}

// Tree is the spec's tree as the file tools of the host see it; what they make
// is uid's and gid's.
func Tree(s sandbox.Spec, uid, gid int) tree.Config {
	c := tree.Config{Root: s.Tree, Workdir: s.Workdir, Share: s.Share, UID: uid, GID: gid, ReadOnly: Frozen(s)}
	for _, f := range s.Parts {
		c.Folders = append(c.Folders, f.Path)
	}
	return c
}

// identity are the variables of who one is, which no image knows.
var identity = []string{"HOME", "USER", "LOGNAME", "SHELL", "PS1", "PS2"}

// Environ is a clean environment: nothing of the supervisor's is in it. An
// image's own variables are, but for those of who one is.
func Environ(s sandbox.Spec, home, user string) []string {
	vars := map[string]string{
		"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME": home, "USER": user, "LOGNAME": user, "SHELL": "/bin/bash",
		"LANG": "C.UTF-8", "TERM": "dumb", "PS1": "", "PS2": "",
	}
	if s.Image != nil {
		for _, kv := range s.Image.Env {
			if k, v, ok := strings.Cut(kv, "="); ok && !slices.Contains(identity, k) {
				vars[k] = v
			}
		}
	}
	for k, v := range wayOut(s.Network) {
		vars[k] = v
	}
	for k, v := range s.Env {
		vars[k] = v
	}
	env := make([]string, 0, len(vars))
	for k, v := range vars {
		env = append(env, k+"="+v)
	}
	return env
}

// NewRecord makes a record with a driver's own handle in it.
func NewRecord(driver string, s sandbox.Spec, handle any) (sandbox.Record, error) {
	b, err := json.Marshal(handle)
	if err != nil {
		return sandbox.Record{}, fmt.Errorf("handle: %w", err)
	}
	return sandbox.Record{Driver: driver, Label: sandbox.Label(s.Dir), SessionID: s.SessionID, Spec: s, Handle: b, StartedAt: time.Now().UTC()}, nil
}
