package sandbox_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/mock"
)

// renewing is a driver whose sandboxes can be renewed, unless fail is set.
type renewing struct {
	*mock.Driver
	fail  bool
	dead  bool // all of its sandboxes
	tried int
}

func (d *renewing) Start(ctx context.Context, spec sandbox.Spec) (sandbox.Sandbox, error) {
	sb, err := d.Driver.Start(ctx, spec)
	if err != nil {
		return nil, err
	}
	return &renewed{sb, sb.(sandbox.Assignable), d}, nil
}

type renewed struct {
	sandbox.Sandbox
	sandbox.Assignable
	driver *renewing
}

func (r *renewed) Alive() error {
	if r.driver.dead {
		return sandbox.ErrGone
	}
	return nil
}

func (r *renewed) Renew(ctx context.Context, spec sandbox.Spec) (sandbox.Sandbox, error) {
	r.driver.tried++
	if r.driver.fail {
		return nil, errors.New("not this one")
	}
	if err := r.Stop(ctx); err != nil {
		return nil, err
	}
	return r.driver.Start(ctx, spec)
}

// startsOf counts the starts of sandboxes whose session begins so.
func startsOf(d *renewing, who string) (n int) {
	for _, line := range d.Log() {
		if strings.HasPrefix(line, "start "+who) {
			n++
		}
	}
	return n
}

// TestEndedSandboxesAreRenewed: what a session leaves is ready for the next,
// within bounds, and only for one of its kind.
func TestEndedSandboxesAreRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, dir := &renewing{Driver: mock.New(mock.Knobs{})}, t.TempDir()
		k := pooled(t, d, dir, 2)
		var held []*sandbox.Held
		for i := range 8 { // two are ready, the others start their own
			held = append(held, open(t, k, fmt.Sprintf("sesn_%d", i), false))
		}
		other, _, err := k.Open(t.Context(), "sesn_other", sandbox.Part{Path: "/workspace/part", ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		closed(t, other, true)
		if k.Ready() != 0 {
			t.Errorf("%d ready after a session of another kind", k.Ready())
		}
		for _, h := range held {
			closed(t, h, true)
		}
		if k.Ready() != 4 {
			t.Errorf("%d are ready after 8 sessions, of 2 wanted", k.Ready())
		}
		if warm, rest := folders(t, dir); len(warm) != 4+2 || len(rest) != 0 { // and two to be used again
			t.Errorf("folders: %v %v", warm, rest)
		}
		began := startsOf(d, "")
		h := open(t, k, "sesn_next", false)
		if n := startsOf(d, ""); n != began || k.Ready() != 3 {
			t.Errorf("the next session started %d, and %d are ready", n-began, k.Ready())
		}
		if r, err := sandbox.ReadReceipt(k.Dir("sesn_next")); err != nil || r.Session != "sesn_next" {
			t.Errorf("receipt %+v %v", r, err)
		}
		began = startsOf(d, "warm.")
		stopped(t, k, d.Driver)
		if n := startsOf(d, "warm."); n != began {
			t.Error("a sandbox was renewed when the keeper stopped")
		}
		closed(t, h, true)
	})
}

// TestFoldersAreUsedAgain: the folder of a session that is gone is another's, and
// nothing that the session has left in it, or set on it.
func TestFoldersAreUsedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, dir := &renewing{Driver: mock.New(mock.Knobs{})}, t.TempDir()
		k := pooled(t, d, dir, 1)
		var seen []os.FileInfo
		again := 0
		for i := range 13 {
			session := fmt.Sprintf("sesn_%d", i)
			h := open(t, k, session, false)
			at := k.Dir(session)
			workspace, err := os.Open(filepath.Join(at, "tree/workspace"))
			if err != nil {
				t.Fatal(err)
			}
			defer workspace.Close() // no other has its number meanwhile
			info, err := workspace.Stat()
			if err != nil || info.Mode().Perm() != 0o755 {
				t.Errorf("%s has a workspace of mode %v, %v", session, info.Mode(), err)
			}
			if slices.ContainsFunc(seen, func(s os.FileInfo) bool { return os.SameFile(s, info) }) {
				again++
			}
			seen = append(seen, info)
			for _, name := range []string{"staged", "tree/other", "tree/tmp/f", "tree/workspace/mine"} {
				at := filepath.Join(at, name)
				if _, err := os.Lstat(at); err == nil {
					t.Errorf("%s finds %s", session, at)
				}
				if err := os.WriteFile(at, []byte(session), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if i%4 == 3 {
				if err := os.Chmod(filepath.Join(at, "tree/workspace"), 0o777); err != nil {
					t.Fatal(err)
				}
			}
			closed(t, h, true)
			if _, err := os.Lstat(at); err == nil {
				t.Errorf("%s is still there", at)
			}
		}
		if again < 4 {
			t.Errorf("%d of 13 folders were used again", again)
		}
		if list, err := k.List(); err != nil || !slices.ContainsFunc(list, func(e sandbox.Entry) bool {
			return e.State == sandbox.StateSpare && e.Session == "" && e.Receipt == nil
		}) {
			t.Errorf("%+v %v", list, err)
		}
		// A worker that is killed leaves it to the next, which removes it.
		next := keeper(t, d, dir)
		if warm, rest := folders(t, dir); len(warm)+len(rest) != 0 {
			t.Errorf("left: %v %v", warm, rest)
		}
		next.Stop(t.Context())
		k.Stop(t.Context())
	})
}

// TestWhatCannotBeRenewedIsStopped: the session's end goes well all the same.
func TestWhatCannotBeRenewedIsStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, dir := &renewing{Driver: mock.New(mock.Knobs{}), fail: true}, t.TempDir()
		k := pooled(t, d, dir, 1)
		h := open(t, k, "sesn_1", false)
		closed(t, h, true)
		if !slices.Contains(d.Log(), "stop sesn_1") || d.tried != 1 {
			t.Errorf("%d tried, %q", d.tried, d.Log())
		}
		h = open(t, k, "sesn_2", false)
		d.dead = true // as one whose time is over
		closed(t, h, true)
		d.dead = false
		if d.tried != 1 {
			t.Error("a dead one was to be renewed")
		}
		if warm, rest := folders(t, dir); len(warm) != k.Ready() || len(rest) != 0 {
			t.Errorf("folders: %v %v", warm, rest)
		}
		refilled(t)
		if k.Ready() != 1 {
			t.Errorf("%d ready", k.Ready())
		}
		stopped(t, k, d.Driver)
	})
}
