package disk

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// lab is a pool and a place for folders.
func lab(t testing.TB) (*Pool, string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root to mount")
	}
	dir := t.TempDir()
	p, err := NewPool(Config{Dir: filepath.Join(dir, "pool")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
		// The kernel lets go of a device when nobody has its mount any more, and
		// a sandbox that another test starts has a copy of it for a moment.
		left := attachedTo(dir)
		for end := time.Now().Add(time.Minute); left != "" && time.Now().Before(end); left = attachedTo(dir) {
			<-time.After(50 * time.Millisecond)
		}
		if left != "" {
			t.Errorf("still attached: %s", left)
		}
	})
	if err := p.Able(); err != nil {
		t.Skipf("no disks here: %v", err)
	}
	return p, dir
}

// attachedTo names a loop device that is attached to a file in dir.
func attachedTo(dir string) string {
	names, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, n := range names {
		if b, _ := os.ReadFile(n); strings.Contains(string(b), dir) {
			return n + " to " + string(b)
		}
	}
	return ""
}

func folder(t testing.TB, dir, name string) string {
	t.Helper()
	f := filepath.Join(dir, name)
	if err := os.MkdirAll(treeOf(f), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := Unmount(f); err != nil {
			t.Error(err)
		}
	})
	return f
}

// fill writes until there is no room, and says how much that was.
func fill(t *testing.T, path string) (n int64) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	chunk := bytes.Repeat([]byte("x"), 1<<20)
	for {
		k, err := f.Write(chunk)
		n += int64(k)
		if errors.Is(err, unix.ENOSPC) {
			return n
		}
		if err != nil {
			t.Fatal(err)
		}
		if n > 1<<30 {
			t.Fatal("there is no limit")
		}
	}
}

func allocated(t *testing.T, path string) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

// TestDisk fills a disk with bytes, and with files, and finds all of it again
// when it is mounted anew.
func TestDisk(t *testing.T) {
	p, dir := lab(t)
	const size = 100 << 20
	f := folder(t, dir, "sesn_1")
	if err := p.Mount(t.Context(), f, size); err != nil {
		t.Fatal(err)
	}
	if n, mounted, err := Size(f); err != nil || !mounted || n > size || n < size*3/4 {
		t.Errorf("a disk of %d bytes; mounted: %v; %v", n, mounted, err)
	}
	if entries, err := os.ReadDir(treeOf(f)); err != nil || len(entries) != 0 {
		t.Errorf("it is not empty: %v %v", entries, err)
	}
	if err := p.Mount(t.Context(), f, size); err != nil {
		t.Errorf("a second mount: %v", err)
	}
	if err := os.WriteFile(filepath.Join(treeOf(f), "kept"), []byte("kept"), 0o644); err != nil {
		t.Fatal(err)
	}
	big := filepath.Join(treeOf(f), "big")
	if n := fill(t, big); n > size || n < size*3/4 {
		t.Errorf("%d bytes fit", n)
	}
	unix.Sync()
	if n := allocated(t, imageOf(f)); n > size {
		t.Errorf("the image takes %d bytes of the host", n)
	}
	if err := os.Remove(big); err != nil {
		t.Fatal(err)
	}
	files := 0
	for ; files < 200_000; files++ {
		h, err := os.Create(filepath.Join(treeOf(f), fmt.Sprint("f", files)))
		if errors.Is(err, unix.ENOSPC) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		h.Close()
	}
	if files < size/8192/2 || files > size/8192*2 {
		t.Errorf("%d files fit", files)
	}
	began := time.Now()
	if err := Unmount(f); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > time.Minute {
		t.Errorf("to unmount took %v", took)
	}
	if _, err := os.Stat(big); err == nil || !Has(f) {
		t.Error("the disk is still shown, or gone")
	}
	if err := Unmount(f); err != nil {
		t.Errorf("a second time: %v", err)
	}
	if err := p.Mount(t.Context(), f, size); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(treeOf(f), "kept")); err != nil || string(b) != "kept" {
		t.Errorf("%q %v", b, err)
	}
}

func TestMountFlags(t *testing.T) {
	p, dir := lab(t)
	f := folder(t, dir, "sesn_1")
	if err := p.Mount(t.Context(), f, MinBytes); err != nil {
		t.Fatal(err)
	}
	var s unix.Statfs_t
	if err := unix.Statfs(treeOf(f), &s); err != nil {
		t.Fatal(err)
	}
	if s.Flags&unix.ST_NODEV == 0 || s.Flags&unix.ST_NOSUID == 0 {
		t.Errorf("flags %#x", s.Flags)
	}
	if got, err := Leftovers(dir); err != nil || len(got) != 1 || got[0] != f {
		t.Errorf("leftovers: %v %v", got, err)
	}
	// The folder can be given to a session by its name.
	moved := filepath.Join(dir, "sesn_2")
	if err := os.Rename(f, moved); err != nil {
		t.Fatal(err)
	}
	if _, mounted, err := Size(moved); err != nil || !mounted {
		t.Errorf("after the move: %v %v", mounted, err)
	}
	if err := Unmount(moved); err != nil {
		t.Error(err)
	}
}

// TestBusy has somebody hold on to a mount that has been taken away: to mount
// the image again must not give it a second device.
func TestBusy(t *testing.T) {
	p, dir := lab(t)
	f := folder(t, dir, "sesn_1")
	if err := p.Mount(t.Context(), f, MinBytes); err != nil {
		t.Fatal(err)
	}
	held, err := unix.OpenTree(unix.AT_FDCWD, treeOf(f), unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	late, err := unix.Openat(held, "late", unix.O_CREAT|unix.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	if err := Unmount(f); err != nil {
		t.Fatal(err)
	}
	if err := Remount(f); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Write(late, []byte("late")); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(treeOf(f), "late")); err != nil || string(b) != "late" {
		t.Errorf("two devices for one image: %q %v", b, err)
	}
	unix.Close(late)
	unix.Close(held)
	// An open file keeps the disk busy; it goes out of sight all the same.
	h, err := os.Open(filepath.Join(treeOf(f), "late"))
	if err != nil {
		t.Fatal(err)
	}
	if err := Unmount(f); err != nil {
		t.Fatal(err)
	}
	if _, mounted, _ := Size(f); mounted {
		t.Error("it is still mounted")
	}
	if b, err := io.ReadAll(h); err != nil || string(b) != "late" {
		t.Errorf("%q %v", b, err)
	}
	h.Close()
}

func TestRefusals(t *testing.T) {
	p, dir := lab(t)
	f := folder(t, dir, "sesn_1")
	if err := p.Mount(t.Context(), f, MinBytes-1); err == nil {
		t.Error("a disk that is too small")
	}
	if err := os.WriteFile(filepath.Join(treeOf(f), "x"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := p.Mount(t.Context(), f, MinBytes); !errors.Is(err, ErrFull) {
		t.Errorf("over files that are there: %v", err)
	}
	if Has(f) {
		t.Error("a refusal has left an image")
	}
	if err := p.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := p.Mount(t.Context(), folder(t, dir, "sesn_2"), MinBytes); err == nil {
		t.Error("a pool that has stopped")
	}
}

func BenchmarkMount(b *testing.B) {
	p, dir := lab(b)
	for i := 0; b.Loop(); i++ {
		f := folder(b, dir, fmt.Sprint("sesn_", i))
		if err := p.Mount(b.Context(), f, 1<<30); err != nil {
			b.Fatal(err)
		}
		if err := Unmount(f); err != nil {
			b.Fatal(err)
		}
	}
}
