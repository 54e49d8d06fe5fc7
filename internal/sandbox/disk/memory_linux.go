package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/internal/sandbox/removal"
)

// Memory is a session's tree in a file system in memory of a sandbox's own. It
// lasts until Close, also when the sandbox has ended. One goroutine uses it at a
// time.
type Memory struct {
	places []string // absolute inside
	dirs   []*os.File
	size   int64
}

// MemoryOptions are tmpfs's for so many bytes.
func MemoryOptions(bytes int64) string {
	return "mode=0755,size=" + strconv.FormatInt(bytes, 10) + ",nr_inodes=" + strconv.FormatInt(bytes/inodeBytes, 10)
}

// inodeBytes is for how many bytes there is an inode.
const inodeBytes = 8 << 10

// OpenMemory opens what stands at the places of a tree in a sandbox whose root
// is at root, such as /proc/PID/root. It does so by the disk's own top, disk,
// such as /proc/PID/cwd: what can only be read at its place can be written
// there. It refuses what is not one file system in memory, of at most so many
// bytes and apart from the root's, and what is not the same at both.
func OpenMemory(root, disk string, places []string, bytes int64) (_ *Memory, err error) {
	m := &Memory{places: slices.Clone(places)}
	defer func() {
		if err != nil {
			m.Close()
		}
	}()
	var around unix.Stat_t
	if err := unix.Stat(root, &around); err != nil {
		return nil, fmt.Errorf("disk: the sandbox's root: %w", err)
	}
	var device uint64
	for _, p := range places {
		fd, err := unix.Open(disk+p, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("disk: open the sandbox's %s: %w", p, err)
		}
		m.dirs = append(m.dirs, os.NewFile(uintptr(fd), p))
		var st, shown unix.Stat_t
		var of unix.Statfs_t
		if err = unix.Fstat(fd, &st); err == nil {
			err = unix.Lstat(root+p, &shown)
		}
		if err == nil {
			err = unix.Fstatfs(fd, &of)
		}
		if err != nil {
			return nil, fmt.Errorf("disk: the sandbox's %s: %w", p, err)
		}
		m.size = int64(of.Blocks) * of.Bsize
		switch {
		case of.Type != unix.TMPFS_MAGIC || st.Dev == around.Dev || st.Dev != shown.Dev || st.Ino != shown.Ino || device != 0 && st.Dev != device:
			return nil, fmt.Errorf("disk: the sandbox's %s is not on its disk", p)
		case m.size <= 0 || m.size > bytes:
			return nil, fmt.Errorf("disk: the sandbox's disk holds %d bytes, not %d", m.size, bytes)
		}
		device = st.Dev
	}
	return m, nil
}

// Size is how many bytes it can hold at most.
func (m *Memory) Size() int64 { return m.size }

// Parts are the places' directories, by paths that are good in this process
// until Close.
func (m *Memory) Parts() map[string]string {
	parts := map[string]string{}
	for i, p := range m.places {
		parts[p] = self(m.dirs[i])
	}
	return parts
}

func self(f *os.File) string { return "/proc/self/fd/" + strconv.Itoa(int(f.Fd())) }

// Fill copies a folder's tree into the memory. From then on the memory has the
// session's files and the tree does not count; see Adrift.
func (m *Memory) Fill(ctx context.Context, folder string) error {
	for i, p := range m.places {
		if _, err := carry(ctx, filepath.Join(treeOf(folder), p), self(m.dirs[i]), true); err != nil {
			return fmt.Errorf("disk: bring %s into the sandbox's memory: %w", p, err)
		}
	}
	if err := setAdrift(treeOf(folder)); err != nil {
		return fmt.Errorf("disk: %w", errors.Join(err, os.Chmod(treeOf(folder), 0o755)))
	}
	return nil
}

// Keep copies the memory to the folder's tree, in the place of all that is
// there, but for what the disk's file system refuses. Nothing may write to the
// memory any more. On error the folder stays adrift; Keep can be called again.
func (m *Memory) Keep(folder string) (all Behind, err error) {
	tree, fresh := treeOf(folder), treeOf(folder)+".new"
	defer func() {
		if err != nil {
			err = fmt.Errorf("disk: keep the tree: %w", errors.Join(err, removal.All(fresh)))
		}
	}()
	if err = removal.All(fresh); err == nil {
		err = empty(tree) // it does not count: the disk need not have room for both
	}
	for i, p := range m.places {
		to := filepath.Join(fresh, p)
		if err == nil {
			err = os.MkdirAll(to, 0o755)
		}
		if err != nil {
			return all, err
		}
		b, err := carry(context.Background(), self(m.dirs[i]), to, false)
		if all.join(p, b); err != nil {
			return all, fmt.Errorf("%s: %w", p, err)
		}
	}
	if err = synced(fresh, unix.Syncfs); err == nil {
		err = unix.Rename(fresh, tree) // os.Rename takes no directory's place
	}
	if err == nil {
		err = synced(folder, unix.Fsync)
	}
	return all, err
}

// empty removes what is in a tree, which is adrift from then on.
func empty(tree string) error {
	entries, err := os.ReadDir(tree)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = setAdrift(tree)
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := removal.All(filepath.Join(tree, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

func synced(dir string, sync func(fd int) error) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	if err := sync(fd); err != nil && err != unix.EINVAL { // not every file system can
		return &fs.PathError{Op: "sync", Path: dir, Err: err}
	}
	return nil
}

// Close lets go of the memory. Twice is fine.
func (m *Memory) Close() {
	for _, d := range m.dirs {
		d.Close()
	}
}

// setAdrift marks a tree by the sticky bit of its top, which no session sees:
// the tree that takes its place has none from its first moment on.
func setAdrift(tree string) error {
	if err := os.Chmod(tree, 0o755|fs.ModeSticky); err != nil {
		return err
	}
	return synced(tree, unix.Fsync)
}

// Adrift says that a folder's files are in a sandbox's memory: once that is
// gone, so are they.
func Adrift(folder string) bool {
	info, err := os.Lstat(treeOf(folder))
	return err == nil && info.Mode()&fs.ModeSticky != 0
}

// Lose removes the tree of a folder whose files were in a memory that is gone.
func Lose(folder string) error {
	for _, tree := range []string{treeOf(folder), treeOf(folder) + ".new"} {
		if err := removal.All(tree); err != nil {
			return fmt.Errorf("disk: %w", err)
		}
	}
	return nil
}
