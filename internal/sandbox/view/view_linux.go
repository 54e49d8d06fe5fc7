package view

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Config says what is shown where.
type Config struct {
	Lower   string // the directory of the host
	Tree    string // the session's tree on the host
	Workdir string // where in it, absolute; it exists
	// UID and GID own the view's files in place of the directory's owner;
	// negative leaves owners as they are.
	UID, GID int
	// Lend gives a user namespace in which the owner stands for UID and GID.
	// It is asked when UID is not negative.
	Lend func(uid, gid int) (*os.File, error)
}

// Mount mounts a view, in place of one that an earlier process left.
func Mount(c Config) (err error) {
	target := filepath.Join(c.Tree, c.Workdir)
	if err := unmount(target); err != nil {
		return fmt.Errorf("view: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Stat(c.Lower, &st); err != nil {
		return fmt.Errorf("view: %s: %w", c.Lower, err)
	}
	uid, gid := int(st.Uid), int(st.Gid)
	if c.UID >= 0 {
		uid, gid = c.UID, c.GID
	}
	own := filepath.Join(c.Tree, dirName)
	if err := os.Mkdir(own, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("view: %w", err)
	}
	var dirs []*os.File // kept open: their descriptors stand for names, which may hold anything
	defer func() {
		for _, d := range dirs {
			d.Close()
		}
	}()
	name := func(path string) (string, error) {
		fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return "", fmt.Errorf("%s: %w", path, err)
		}
		dirs = append(dirs, os.NewFile(uintptr(fd), path))
		return "/proc/self/fd/" + strconv.Itoa(fd), nil
	}
	upper, work := filepath.Join(own, "upper"), filepath.Join(own, "work")
	for _, d := range []string{upper, work} {
		if err := os.Mkdir(d, 0o700); err == nil {
			if err = errors.Join(os.Chown(d, uid, gid), os.Chmod(d, fs.FileMode(st.Mode&0o777))); err != nil {
				return fmt.Errorf("view: %w", err)
			}
		} else if !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("view: %w", err)
		}
	}
	lower := c.Lower
	if c.UID >= 0 {
		lower = filepath.Join(own, "lower")
		if err := lend(c, st, lower); err != nil {
			return fmt.Errorf("view: %w", err)
		}
		defer func() { // the overlay has it for itself
			err = errors.Join(err, unix.Unmount(lower, unix.MNT_DETACH))
		}()
	}
	var names [3]string
	for i, path := range []string{lower, upper, work} {
		if names[i], err = name(path); err != nil {
			return fmt.Errorf("view: %w", err)
		}
	}
	err = unix.Mount("berth-view", target, "overlay", unix.MS_NOSUID|unix.MS_NODEV,
		"lowerdir="+names[0]+",upperdir="+names[1]+",workdir="+names[2]+",redirect_dir=on,metacopy=off,index=off")
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENODEV) {
		err = fmt.Errorf("%w (%w)", ErrImpossible, err)
	}
	if err != nil {
		return fmt.Errorf("view: show %s: %w", c.Lower, err)
	}
	return nil
}

// lend mounts the directory at a place of its own, with its owner's files as
// the session's.
func lend(c Config, st unix.Stat_t, at string) error {
	if err := os.Mkdir(at, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := unmount(at); err != nil {
		return err
	}
	ns, err := c.Lend(int(st.Uid), int(st.Gid))
	if err != nil {
		return err
	}
	defer ns.Close()
	fd, err := unix.OpenTree(unix.AT_FDCWD, c.Lower, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("clone %s: %w", c.Lower, err)
	}
	defer unix.Close(fd)
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP | unix.MOUNT_ATTR_RDONLY, Userns_fd: uint64(ns.Fd())}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return fmt.Errorf("the file system of %s cannot lend its files to another user: %w", c.Lower, err)
	}
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount %s: %w", c.Lower, err)
	}
	return nil
}

// Unmount takes a view away; what the session changed stays in its tree.
// Nothing mounted is fine.
func Unmount(tree, workdir string) error {
	if err := unmount(filepath.Join(tree, workdir)); err != nil {
		return fmt.Errorf("view: %w", err)
	}
	return nil
}

// Mounted says whether a view is there.
func Mounted(tree, workdir string) bool { return mounted(filepath.Join(tree, workdir)) }

func mounted(target string) bool { return slices.Contains(mounts(), target) }

func unmount(target string) error {
	for mounted(target) {
		if err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmount %s: %w", target, err)
		}
	}
	return nil
}

// Left lists the views in a sandbox's folder.
func Left(dir string) []string {
	if _, err := os.Lstat(filepath.Join(dir, "tree", dirName)); err != nil {
		return nil
	}
	var all []string
	for _, m := range mounts() {
		if strings.HasPrefix(m, strings.TrimSuffix(dir, "/")+"/") {
			all = append(all, m)
		}
	}
	return all
}

// mounts lists where overlays of views are mounted.
func mounts() []string {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	defer f.Close()
	var all []string
	for scan := bufio.NewScanner(f); scan.Scan(); {
		before, after, ok := strings.Cut(scan.Text(), " - ")
		in := strings.Fields(before)
		if ok && len(in) >= 5 && (strings.HasPrefix(after, "overlay berth-view ") || strings.HasSuffix(in[4], "/"+dirName+"/lower")) {
			all = append(all, unescape.Replace(in[4]))
		}
	}
	return all
}

// unescape undoes what the kernel does to names.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// Release unmounts what Left lists.
func Release(target string) error { return unmount(target) }
