package disk

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// format makes an empty file system. It has a journal, so that it needs no
// check after the machine has failed, and an inode for every 8 KiB.
func format(image string, size int64) error {
	f, err := os.OpenFile(image+".new", os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("disk: %w", err)
	}
	err = errors.Join(f.Truncate(size), f.Close())
	if err != nil {
		return fmt.Errorf("disk: %w", err)
	}
	features := "none,filetype,extent,64bit,flex_bg,metadata_csum,sparse_super,large_file,huge_file,dir_index,dir_nlink,extra_isize"
	if size >= 64<<20 {
		features += ",has_journal"
	}
	args := []string{"-q", "-F", "-t", "ext4", "-m", "0", "-I", "256", "-O", features, "-i", "8192", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0"}
	if size >= 64<<20 {
		args = append(args, "-J", "size=4")
	}
	path, err := mke2fs()
	if err != nil {
		return err
	}
	cmd := exec.Command(path, append(args, image+".new")...)
	cmd.Env = []string{"MKE2FS_CONFIG=/dev/null", "MKE2FS_SYNC=0"} // the machine's defaults are not ours
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("disk: mke2fs: %w: %s", err, bytes.TrimSpace(out))
	}
	return os.Rename(image+".new", image)
}

func mke2fs() (string, error) {
	if path, err := exec.LookPath("mke2fs"); err == nil {
		return path, nil
	}
	for _, path := range []string{"/usr/sbin/mke2fs", "/sbin/mke2fs"} {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", errors.New("disk: mke2fs is missing (install e2fsprogs)")
}

// open gives a mount of an image that is nowhere yet. The image is attached to
// a loop device, which goes with the last mount of it.
func open(image string) (*os.File, error) {
	loop, err := loopOf(image)
	if err != nil {
		return nil, err
	}
	defer loop.Close()
	fsfd, err := unix.Fsopen("ext4", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("disk: ext4: %w", err)
	}
	defer unix.Close(fsfd)
	err = unix.FsconfigSetString(fsfd, "source", loop.Name())
	for _, flag := range []string{"noinit_itable", "discard"} { // an untouched part costs nothing, a removed file nothing more
		if err == nil {
			err = unix.FsconfigSetFlag(fsfd, flag)
		}
	}
	if err == nil {
		err = unix.FsconfigCreate(fsfd)
	}
	if err != nil {
		return nil, fmt.Errorf("disk: mount %s: %w", image, err)
	}
	fd, err := unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOATIME)
	if err != nil {
		return nil, fmt.Errorf("disk: mount %s: %w", image, err)
	}
	return os.NewFile(uintptr(fd), image), nil
}

func attach(mount *os.File, tree string) error {
	err := unix.MoveMount(int(mount.Fd()), "", unix.AT_FDCWD, tree, unix.MOVE_MOUNT_F_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("disk: mount at %s: %w", tree, err)
	}
	return nil
}

// Remount shows the disk that a folder has at its tree.
func Remount(folder string) error {
	if _, mounted, err := Size(folder); err != nil || mounted {
		return err
	}
	mount, err := open(imageOf(folder))
	if err != nil {
		return err
	}
	defer mount.Close()
	return attach(mount, treeOf(folder))
}

// Has says whether a folder has a disk.
func Has(folder string) bool {
	_, err := os.Lstat(imageOf(folder))
	return err == nil
}

// Size is how many bytes the disk mounted at a folder's tree can hold at most;
// mounted is false when none is.
func Size(folder string) (bytes int64, mounted bool, err error) {
	var above, tree unix.Stat_t
	if err := unix.Stat(folder, &above); err != nil {
		return 0, false, fmt.Errorf("disk: %s: %w", folder, err)
	}
	if err := unix.Lstat(treeOf(folder), &tree); err != nil {
		return 0, false, fmt.Errorf("disk: %s: %w", treeOf(folder), err)
	}
	if above.Dev == tree.Dev {
		return 0, false, nil
	}
	var s unix.Statfs_t
	if err := unix.Statfs(treeOf(folder), &s); err != nil {
		return 0, true, fmt.Errorf("disk: %s: %w", treeOf(folder), err)
	}
	return int64(s.Blocks) * s.Bsize, true, nil
}

// unmountTime is how long a disk may stay in use after its sandbox has ended.
const unmountTime = 3 * time.Second

// Unmount takes a folder's disk away from its tree; the image stays. A tree
// without a disk is no error.
func Unmount(folder string) error {
	tree := treeOf(folder)
	for end := time.Now().Add(unmountTime); ; {
		err := unix.Unmount(tree, unix.UMOUNT_NOFOLLOW)
		switch {
		case err == unix.EINVAL || err == unix.ENOENT || err == unix.EPERM:
			return nil
		case err == nil:
			continue // there may be one below it
		case err != unix.EBUSY:
			return fmt.Errorf("disk: unmount %s: %w", tree, err)
		}
		if time.Now().After(end) {
			// Out of sight at once, and gone with its last user.
			if err := unix.Unmount(tree, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH); err != nil {
				return fmt.Errorf("disk: unmount %s: %w", tree, err)
			}
			return nil
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// loopOf gives the loop device of an image, held open so that it stays: the one
// it has, which may have a mount that lives on in a namespace, or a free one.
// Two devices for one image would destroy it.
func loopOf(image string) (*os.File, error) {
	var st unix.Stat_t
	if err := unix.Stat(image, &st); err != nil {
		return nil, fmt.Errorf("disk: %s: %w", image, err)
	}
	if f := attached(st); f != nil {
		return f, nil
	}
	back, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("disk: %w", err)
	}
	defer back.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("disk: loop devices: %w", err)
	}
	defer control.Close()
	config := unix.LoopConfig{Fd: uint32(back.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}}
	copy(config.Info.File_name[:len(config.Info.File_name)-1], "berth:"+filepath.Base(filepath.Dir(image)))
	for range 200 {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("disk: a free loop device: %w", err)
		}
		f, err := os.OpenFile("/dev/loop"+strconv.Itoa(n), os.O_RDWR, 0)
		if err != nil {
			return nil, fmt.Errorf("disk: %w", err)
		}
		err = unix.IoctlLoopConfigure(int(f.Fd()), &config)
		if err == nil {
			return f, nil
		}
		f.Close()
		if err != unix.EBUSY { // somebody else was faster
			return nil, fmt.Errorf("disk: attach %s: %w", image, err)
		}
	}
	return nil, errors.New("disk: no loop device is to be had")
}

// attached finds the loop device of an image.
func attached(image unix.Stat_t) *os.File {
	names, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, name := range names {
		path := "/dev/" + strings.Split(name, "/")[3]
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			continue
		}
		info, err := unix.IoctlLoopGetStatus64(int(f.Fd()))
		if err == nil && info.Inode == image.Ino && info.Device == image.Dev {
			return f
		}
		f.Close()
	}
	return nil
}
