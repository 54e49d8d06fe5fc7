package spare

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fresh makes a directory as a session finds it.
func fresh(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"workspace", "tmp", "mnt/session/outputs", "mnt/memory"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func restore(s *Shape, dir string) error {
	above, err := os.Open(filepath.Dir(dir))
	if err != nil {
		return err
	}
	defer above.Close()
	return s.Restore(above, filepath.Base(dir))
}

// TestUsed has a session use it: it is as it was, and the same directories.
func TestUsed(t *testing.T) {
	dir := fresh(t)
	s, err := Of(dir)
	if err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(filepath.Join(dir, "workspace"))
	if err != nil {
		t.Fatal(err)
	}
	away := t.TempDir()
	err = os.WriteFile(filepath.Join(away, "mine"), nil, 0o600)
	for _, d := range []string{"workspace/a/b/c", "tmp/d", "mnt/other"} {
		err = errors.Join(err, os.MkdirAll(filepath.Join(dir, d), 0o755), os.WriteFile(filepath.Join(dir, d, "f"), []byte("x"), 0o644))
	}
	err = errors.Join(err,
		os.Symlink(away, filepath.Join(dir, "mnt/session/outputs/link")),
		unix.Mkfifo(filepath.Join(dir, "tmp/fifo"), 0o600),
		os.Chmod(filepath.Join(dir, "tmp/d"), 0),
		os.Chtimes(filepath.Join(dir, "mnt/memory"), time.Unix(1, 0), time.Unix(2, 0)))
	if err != nil {
		t.Fatal(err)
	}
	if err := restore(s, dir); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(filepath.Join(dir, "workspace"))
	if err != nil || !os.SameFile(before, after) {
		t.Errorf("another directory: %v", err)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "mnt/memory"), &st); err != nil || st.Atim.Sec == 1 || st.Mtim.Sec == 2 {
		t.Errorf("its times are those that were set: %+v %v", st, err)
	}
	var left []string
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		left = append(left, path)
		return err
	})
	if err != nil || len(left) != 7 {
		t.Errorf("%v %v", left, err)
	}
	if _, err := os.Stat(filepath.Join(away, "mine")); err != nil {
		t.Errorf("what a link leads to: %v", err)
	}
}

// TestSetOtherwise has something changed that an empty directory keeps.
func TestSetOtherwise(t *testing.T) {
	for name, change := range map[string]func(dir string) error{
		"mode":    func(dir string) error { return os.Chmod(filepath.Join(dir, "tmp"), 0o777) },
		"its own": func(dir string) error { return os.Chmod(dir, 0o700) },
		"sticky":  func(dir string) error { return os.Chmod(filepath.Join(dir, "workspace"), 0o755|fs.ModeSticky) },
		"missing": func(dir string) error { return os.Remove(filepath.Join(dir, "mnt/session/outputs")) },
		"owner": func(dir string) error {
			if os.Getuid() != 0 {
				return errors.ErrUnsupported
			}
			return os.Chown(filepath.Join(dir, "tmp"), 1, -1)
		},
		"link": func(dir string) error {
			at := filepath.Join(dir, "workspace")
			return errors.Join(os.Remove(at), os.Symlink("tmp", at))
		},
		"attribute": func(dir string) error {
			return unix.Setxattr(filepath.Join(dir, "mnt"), "user.left", []byte("x"), 0)
		},
		"access list": func(dir string) error {
			list := []byte{2, 0, 0, 0}
			for _, e := range [][3]byte{{1, 7, 255}, {2, 7, 1}, {4, 5, 255}, {16, 7, 255}, {32, 5, 255}} { // tag, rights, who
				who := byte(0)
				if e[2] == 255 {
					who = 255
				}
				list = append(list, e[0], 0, e[1], 0, e[2], who, who, who)
			}
			return unix.Setxattr(filepath.Join(dir, "workspace"), "system.posix_acl_access", list, 0)
		},
		"flag": func(dir string) error { return run("chattr", "+d", filepath.Join(dir, "workspace")) },
		"size": func(dir string) error {
			for i := range 2000 {
				if err := os.WriteFile(filepath.Join(dir, "tmp", "a long name of a small file "+strconv.Itoa(i)), nil, 0o600); err != nil {
					return err
				}
			}
			var st unix.Statfs_t
			if err := unix.Statfs(dir, &st); err != nil || st.Type != unix.EXT4_SUPER_MAGIC {
				return errors.Join(err, errors.ErrUnsupported)
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := fresh(t)
			s, err := Of(dir)
			if err != nil {
				t.Fatal(err)
			}
			if err := restore(s, dir); err != nil {
				t.Fatalf("unused: %v", err)
			}
			switch err := change(dir); {
			case errors.Is(err, errors.ErrUnsupported):
				t.Skipf("by design: this file system or user cannot set it: %v", err)
			case err != nil:
				t.Fatal(err)
			}
			if restore(s, dir) == nil {
				t.Error("it counts as what it was")
			}
		})
	}
}

func run(program string, args ...string) error {
	at, err := exec.LookPath(program)
	if err != nil {
		return errors.Join(err, errors.ErrUnsupported)
	}
	return exec.Command(at, args...).Run()
}

// TestNoShape is of a directory with a file in it.
func TestNoShape(t *testing.T) {
	dir := fresh(t)
	if err := os.WriteFile(filepath.Join(dir, "tmp/f"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Of(dir); err == nil {
		t.Error("it has one")
	}
}

// TestMounted has something mounted on a directory: it is not emptied.
func TestMounted(t *testing.T) {
	for _, name := range []string{"", "workspace"} {
		dir, other := fresh(t), t.TempDir()
		s, err := Of(dir)
		if err = errors.Join(err, os.WriteFile(filepath.Join(other, "theirs"), nil, 0o600)); err != nil {
			t.Fatal(err)
		}
		at := filepath.Join(dir, name)
		if err := unix.Mount(other, at, "", unix.MS_BIND, ""); err != nil {
			t.Skipf("by design: mounts need root: %v", err)
		}
		err = restore(s, dir)
		if e := unix.Unmount(at, unix.MNT_DETACH); e != nil {
			t.Fatal(e)
		}
		if err == nil {
			t.Errorf("%q: it counts as what it was", name)
		}
		if _, err := os.Stat(filepath.Join(other, "theirs")); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
}
