package sandbox_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/internal/sandbox/mock"
)

// TestWhatCannotBeForgotten: the folder of a session is the session's until it can
// be removed, also where folders are used again.
func TestWhatCannotBeForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, dir, other := &renewing{Driver: mock.New(mock.Knobs{})}, t.TempDir(), t.TempDir()
		k := pooled(t, d, dir, 1)
		for i := range 3 { // from the first that is renewed on
			closed(t, open(t, k, fmt.Sprintf("sesn_%d", i), false), true)
		}
		h := open(t, k, "sesn_kept", false)
		at := filepath.Join(k.Dir("sesn_kept"), "tree/workspace/mounted")
		err := errors.Join(os.Mkdir(at, 0o755), os.WriteFile(filepath.Join(other, "theirs"), nil, 0o600))
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount(other, at, "", unix.MS_BIND, ""); err != nil {
			t.Skipf("by design: mounts need root: %v", err)
		}
		if h.Close(t.Context(), true) == nil {
			t.Error("what is mounted there counts as removed")
		}
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(filepath.Join(other, "theirs")); err != nil {
			t.Errorf("what was mounted there: %v", err)
		}
		closed(t, h, true)
		if _, err := os.Lstat(k.Dir("sesn_kept")); err == nil {
			t.Error("the session's folder is still there")
		}
		stopped(t, k, d.Driver)
		if warm, rest := folders(t, dir); len(warm)+len(rest) != 0 {
			t.Errorf("left: %v %v", warm, rest)
		}
	})
}

// TestNoSpaceToStart: a start that fails before anything runs leaves nothing.
func TestNoSpaceToStart(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("small", dir, "tmpfs", 0, "nr_inodes=8"); err != nil {
		t.Skipf("by design: mounts need root: %v", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	k := keeper(t, mock.New(mock.Knobs{}), dir)
	for i := 0; ; i++ { // for one more inode each time, until all that a start makes first is there
		if _, lost, err := k.Open(t.Context(), "sesn_1"); err == nil || lost {
			t.Fatalf("%v %v", lost, err)
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != i {
			t.Fatalf("a start that failed left %v, %v", entries, err)
		}
		if i == 7 {
			break
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
