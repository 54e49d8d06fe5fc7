package disk

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// memory is a folder with a tree, and a small file system in memory that stands
// for a sandbox's: its root, and what is shown of the disk.
func memory(t *testing.T, bytes int64) (folder, root string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("by design: the suite of namespaces tries it as an ordinary user")
	}
	folder, root = t.TempDir(), t.TempDir()
	for _, dir := range []string{filepath.Join(treeOf(folder), "workspace"), filepath.Join(root, "workspace")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount("disk", filepath.Join(root, "workspace"), "tmpfs", 0, MemoryOptions(bytes)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(filepath.Join(root, "workspace"), unix.MNT_DETACH) })
	return folder, root
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func reads(t *testing.T, path, want string) {
	t.Helper()
	if b, err := os.ReadFile(path); err != nil || string(b) != want {
		t.Errorf("%s: %q, %v", path, b, err)
	}
}

// TestMemoryIsKept: the files go into the memory and come back, also when all
// that is left of it is the supervisor's; what lies too deep stays behind.
func TestMemoryIsKept(t *testing.T) {
	folder, root := memory(t, 64<<20)
	write(t, filepath.Join(treeOf(folder), "workspace/old"), "old")
	m, err := OpenMemory(root, root, []string{"/workspace"}, 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := m.Fill(t.Context(), folder); err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(root, "workspace")
	reads(t, filepath.Join(at, "old"), "old")
	if !Adrift(folder) {
		t.Error("the files are in memory, and nothing says so")
	}
	write(t, filepath.Join(at, "new"), "new")
	if err := os.Remove(filepath.Join(at, "old")); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(at, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		if err := unix.Mkdirat(fd, "d", 0o755); err != nil {
			t.Fatal(err)
		}
		next, err := unix.Openat(fd, "d", unix.O_PATH|unix.O_DIRECTORY, 0)
		unix.Close(fd)
		if fd = next; err != nil {
			t.Fatal(err)
		}
	}
	unix.Close(fd)
	if err := unix.Unmount(at, unix.MNT_DETACH); err != nil { // the sandbox is gone
		t.Fatal(err)
	}
	if _, err := m.Keep(folder); err != nil {
		t.Fatal(err)
	}
	reads(t, filepath.Join(treeOf(folder), "workspace/new"), "new")
	if _, err := os.Lstat(filepath.Join(treeOf(folder), "workspace/old")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what was removed is there: %v", err)
	}
	if _, err := os.Stat(filepath.Join(treeOf(folder), "workspace/"+strings.Repeat("d/", 250))); err != nil {
		t.Errorf("deep directories: %v", err)
	}
	left, err := os.ReadDir(folder)
	if err != nil || len(left) != 1 || Adrift(folder) {
		t.Errorf("beside the tree is %v, %v", left, err)
	}
}

// TestKeepLeavesBehind what the disk's file system refuses, and nothing else.
func TestKeepLeavesBehind(t *testing.T) {
	folder, root := memory(t, 512<<20)
	m, err := OpenMemory(root, root, []string{"/workspace"}, 512<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := m.Fill(t.Context(), folder); err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(root, "workspace")
	write(t, filepath.Join(at, "good"), "good")
	write(t, filepath.Join(at, "huge"), "")
	if err := os.Truncate(filepath.Join(at, "huge"), 1<<62); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mknod(filepath.Join(at, "device"), unix.S_IFCHR|0o600, 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(at, "device"), filepath.Join(at, "device2")); err != nil {
		t.Fatal(err)
	}
	const links = 65_010 // ext4 has 65,000
	if err := os.Mkdir(filepath.Join(at, "links"), 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range links {
		if err := os.Link(filepath.Join(at, "good"), filepath.Join(at, "links", strconv.Itoa(i))); err != nil {
			t.Fatal(err)
		}
	}
	behind, err := m.Keep(folder)
	if err != nil || behind.Entries != 3 || behind.Why == nil || !strings.HasPrefix(behind.First, "/workspace/") {
		t.Fatalf("behind %+v, %v", behind, err)
	}
	tree := filepath.Join(treeOf(folder), "workspace")
	reads(t, filepath.Join(tree, "good"), "good")
	names, err := os.ReadDir(filepath.Join(tree, "links"))
	if err != nil || len(names) != links {
		t.Fatalf("%d links, %v", len(names), err)
	}
	for _, n := range names {
		reads(t, filepath.Join(tree, "links", n.Name()), "good")
	}
	if names, err := os.ReadDir(tree); err != nil || len(names) != 2 {
		t.Errorf("kept %v, %v", names, err)
	}
}

// TestKeepThatFails says that the tree is not the session's any more, and
// succeeds once there is room, if only for one of the two.
func TestKeepThatFails(t *testing.T) {
	folder, root := memory(t, 64<<20)
	if err := unix.Mount("small", folder, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(folder, unix.MNT_DETACH) })
	if err := os.MkdirAll(filepath.Join(treeOf(folder), "workspace"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(treeOf(folder), "workspace/old"), "old")
	m, err := OpenMemory(root, root, []string{"/workspace"}, 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := m.Fill(t.Context(), folder); err != nil {
		t.Fatal(err)
	}
	big := strings.Repeat("x", 2<<20)
	write(t, filepath.Join(root, "workspace/big"), big)
	if _, err := m.Keep(folder); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("a full disk gave %v", err)
	}
	if left, err := os.ReadDir(folder); err != nil || len(left) != 1 || !Adrift(folder) {
		t.Errorf("in the folder is %v, %v", left, err)
	}
	for range 2 {
		if err := unix.Mount("", folder, "", unix.MS_REMOUNT, "size=3m"); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Keep(folder); err != nil {
			t.Fatal(err)
		}
		reads(t, filepath.Join(treeOf(folder), "workspace/old"), "old")
		reads(t, filepath.Join(treeOf(folder), "workspace/big"), big)
		if Adrift(folder) {
			t.Error("what is kept is still adrift")
		}
	}
}

// TestLose removes a tree that does not count, and says so from the first file
// that it removes to the last.
func TestLose(t *testing.T) {
	folder, root := memory(t, 64<<20)
	m, err := OpenMemory(root, root, []string{"/workspace"}, 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := m.Fill(t.Context(), folder); err != nil {
		t.Fatal(err)
	}
	if err := empty(treeOf(folder)); err != nil || !Adrift(folder) {
		t.Errorf("emptied: adrift is %v, %v", Adrift(folder), err)
	}
	if err := Lose(folder); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(folder); err != nil || len(left) != 0 {
		t.Errorf("lost, and in the folder is %v, %v", left, err)
	}
}

// TestOpenMemoryRefuses what is not a disk in memory of a sandbox's own, or a
// larger one.
func TestOpenMemoryRefuses(t *testing.T) {
	_, root := memory(t, 64<<20)
	_, other := memory(t, 64<<20)
	for name, open := range map[string]func() (*Memory, error){
		"a larger one": func() (*Memory, error) { return OpenMemory(root, root, []string{"/workspace"}, 32<<20) },
		"the root's": func() (*Memory, error) {
			return OpenMemory(root+"/workspace", root+"/workspace", []string{"/."}, 64<<20)
		},
		"a directory": func() (*Memory, error) {
			return OpenMemory(root+"/..", root+"/..", []string{"/" + filepath.Base(root)}, 1<<60)
		},
		"another top": func() (*Memory, error) { return OpenMemory(root, other, []string{"/workspace"}, 64<<20) },
		"nothing":     func() (*Memory, error) { return OpenMemory(root, root, []string{"/missing"}, 64<<20) },
		"two of them as parts": func() (*Memory, error) {
			return OpenMemory(root, root, []string{"/workspace", "/../../../../dev/shm"}, 1<<60)
		},
	} {
		if m, err := open(); err == nil {
			m.Close()
			t.Errorf("%s is taken", name)
		}
	}
}
