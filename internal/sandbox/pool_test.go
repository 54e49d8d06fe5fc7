package sandbox_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/mock"
	"github.com/berthdev/berth/toolset"
)

// pooled makes a keeper with a full pool, inside a synctest bubble.
func pooled(t *testing.T, d sandbox.Driver, dir string, size int) *sandbox.Keeper {
	t.Helper()
	k, err := sandbox.NewKeeper(sandbox.KeeperConfig{Driver: d, Dir: dir, Warm: size, Version: "v1"})
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	refilled(t)
	return k
}

// refilled lets the pool do what it has to do.
func refilled(t *testing.T) {
	t.Helper()
	synctest.Wait()
	time.Sleep(time.Second)
	synctest.Wait()
}

func stopped(t *testing.T, k *sandbox.Keeper, d *mock.Driver) {
	t.Helper()
	if err := k.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if d.Live() != 0 {
		t.Errorf("%d sandboxes outlived the keeper", d.Live())
	}
}

func folders(t *testing.T, dir string) (warm, other []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "warm.") {
			warm = append(warm, e.Name())
		} else {
			other = append(other, e.Name())
		}
	}
	return warm, other
}

func TestPoolGivesAndRefills(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, dir := mock.New(mock.Knobs{}), t.TempDir()
		k := pooled(t, d, dir, 2)
		if warm, _ := folders(t, dir); len(warm) != 2 || k.Ready() != 2 {
			t.Fatalf("ready: %d, %v", k.Ready(), warm)
		}
		h := open(t, k, "sesn_1", false)
		if slices.Contains(d.Log(), "start sesn_1") {
			t.Error("it was started, not taken")
		}
		if r, err := h.Bash(t.Context(), toolset.Command{Text: "echo x"}); err != nil || string(r.Head) != "x\n" {
			t.Errorf("%q %v", r.Head, err)
		}
		at := filepath.Join(dir, "sesn_1")
		rec, err := sandbox.ReadRecord(at)
		if err != nil || rec.SessionID != "sesn_1" || rec.Spec.Dir != at || rec.Label == sandbox.Label(at) {
			t.Errorf("record %+v %v", rec, err)
		}
		if r, err := sandbox.ReadReceipt(at); err != nil || r.Session != "sesn_1" || r.Version != "v1" {
			t.Errorf("receipt %+v %v", r, err)
		}
		if err := h.Files().WriteFile("f", []byte("x")); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(filepath.Join(at, "tree/workspace/f")); err != nil {
			t.Error(err)
		}
		refilled(t)
		if k.Ready() != 2 {
			t.Errorf("%d ready after a while", k.Ready())
		}
		// A session that was here before has a tree, and starts on it.
		closed(t, h, false)
		h = open(t, k, "sesn_1", false)
		if _, err := h.Files().Stat("f"); err != nil || !slices.Contains(d.Log(), "start sesn_1") {
			t.Errorf("the second time: %v", err)
		}
		stopped(t, k, d)
		if warm, other := folders(t, dir); len(warm) != 0 || len(other) != 1 {
			t.Errorf("left: %v %v", warm, other)
		}
	})
}

// TestPoolWaitsForQuiet has no sandbox started while sessions come in.
func TestPoolWaitsForQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := mock.New(mock.Knobs{})
		k := pooled(t, d, t.TempDir(), 3)
		started := len(d.Log())
		for _, s := range []string{"sesn_1", "sesn_2", "sesn_3"} {
			open(t, k, s, false)
			time.Sleep(20 * time.Millisecond)
			synctest.Wait()
		}
		for _, line := range d.Log()[started:] {
			if strings.HasPrefix(line, "start") {
				t.Errorf("%q amid the claims", line)
			}
		}
		refilled(t)
		if k.Ready() != 3 {
			t.Errorf("%d ready", k.Ready())
		}
		stopped(t, k, d)
	})
}

// TestPoolGivesNoOtherKind asks for anything that differs from the pattern.
func TestPoolGivesNoOtherKind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, dir := mock.New(mock.Knobs{}), t.TempDir()
		k := pooled(t, d, dir, 1)
		same := k.Spec()
		same.SessionID, same.Dir = "sesn_1", filepath.Join(dir, "sesn_1")
		same.Tree = filepath.Join(same.Dir, "tree")
		for name, change := range map[string]func(*sandbox.Spec){
			"policy":   func(s *sandbox.Spec) { s.Policy = "sha256:2" },
			"image":    func(s *sandbox.Spec) { s.Image = &sandbox.Image{Digest: "sha256:2"} },
			"limit":    func(s *sandbox.Spec) { s.Limits.Memory = 1 << 30 },
			"required": func(s *sandbox.Spec) { s.Limits.Required = []sandbox.Limit{sandbox.LimitCPU} },
			"network":  func(s *sandbox.Spec) { s.Network.Mode = sandbox.NetworkAllow },
			"way out":  func(s *sandbox.Spec) { s.Network.Socket = "/x" },
			"mounts":   func(s *sandbox.Spec) { s.Mounts = []sandbox.Mount{{Source: "/a", Target: "/b"}} },
			"env":      func(s *sandbox.Spec) { s.Env = map[string]string{"A": "b"} },
			"workdir":  func(s *sandbox.Spec) { s.Workdir = "/elsewhere" },
			"user":     func(s *sandbox.Spec) { s.User.UID = 7 },
		} {
			other := same
			change(&other)
			if _, ok := k.Take(t.Context(), other); ok {
				t.Errorf("another %s gets what is ready", name)
			}
		}
		if _, ok := k.Take(t.Context(), same); !ok {
			t.Error("the same kind gets nothing")
		}
		k.Stop(t.Context())
	})
}

// TestPoolGivesNoDeadOne has those that are ready die, or be of no use.
func TestPoolGivesNoDeadOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, dir := mock.New(mock.Knobs{}), t.TempDir()
		k := pooled(t, d, dir, 2)
		before, _ := folders(t, dir)
		d.Kill()
		h := open(t, k, "sesn_1", false)
		if !slices.Contains(d.Log(), "start sesn_1") {
			t.Error("a session got a dead sandbox")
		}
		if _, err := h.Bash(t.Context(), toolset.Command{Text: "true"}); err != nil {
			t.Error(err)
		}
		for _, name := range before {
			if _, err := os.Stat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the dead one's folder stays: %v", err)
			}
		}
		refilled(t)
		if k.Ready() != 2 {
			t.Errorf("%d ready", k.Ready())
		}
		stopped(t, k, d)

		d = mock.New(mock.Knobs{AssignError: errors.New("boom")})
		k = pooled(t, d, t.TempDir(), 1)
		open(t, k, "sesn_1", false)
		if !slices.Contains(d.Log(), "start sesn_1") {
			t.Error("no sandbox was started when none could be assigned")
		}
		stopped(t, k, d)
	})
}

// TestPoolThatCannotFill tries ever more seldom, and ends at once.
func TestPoolThatCannotFill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, dir := mock.New(mock.Knobs{StartError: errors.New("boom")}), t.TempDir()
		k := pooled(t, d, dir, 1)
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := len(d.Log()); n < 20 || n > 60 {
			t.Errorf("%d tries in an hour", n)
		}
		if warm, other := folders(t, dir); len(warm)+len(other) != 0 {
			t.Errorf("left: %v %v", warm, other)
		}
		stopped(t, k, d)
	})
}

// TestPoolAfterACrash finds what a worker kept ready when it was killed, also
// when it was killed while a session took one: before the folder had the session's
// name it is removed, and from then on it is the session's.
func TestPoolAfterACrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, dir := mock.New(mock.Knobs{}), t.TempDir()
		first := pooled(t, d, dir, 4)
		sessions := []string{"sesn_1", "no plain name", "warm.name"}
		for _, session := range sessions {
			own := open(t, first, session, false).Sandbox().Record()
			at := first.Dir(session)
			if r, err := sandbox.ReadReceipt(at); err != nil || r.Session != session {
				t.Errorf("the receipt of %q: %+v %v", session, r, err)
			}
			if rec, err := sandbox.ReadRecord(at); err != nil || rec.SessionID != session || rec.Spec.SessionID != session ||
				rec.Spec.Tree != filepath.Join(at, "tree") || !rec.StartedAt.Equal(own.StartedAt) {
				t.Errorf("the record of %q: %+v %v", session, rec, err)
			}
		}
		warm, _ := folders(t, dir)
		err := os.WriteFile(filepath.Join(dir, warm[0], "unsettled"), []byte("sesn_2"), 0o600)
		if err := errors.Join(err, os.Mkdir(filepath.Join(dir, "warm.unborn"), 0o700)); err != nil {
			t.Fatal(err)
		}
		k := keeper(t, d, dir)
		if warm, other := folders(t, dir); len(warm) != 0 || len(other) != len(sessions) {
			t.Errorf("left: %v %v", warm, other)
		}
		starts := len(d.Log())
		for _, session := range sessions {
			open(t, k, session, false)
		}
		if log := strings.Join(d.Log()[starts:], "\n"); strings.Contains(log, "start") {
			t.Errorf("a session's own sandbox was not taken over:\n%s", log)
		}
		k.Stop(t.Context())
		first.Stop(t.Context())
	})
}
