package process_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/internal/sandbox/sandboxtest"
	"github.com/berthdev/berth/toolset"
)

// TestHostsMountsComeAndGo: a session sees what the host mounts and holds nothing
// that the host unmounts; what it mounts itself is its own.
func TestHostsMountsComeAndGo(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("by design: an ordinary user mounts nothing")
	}
	base, err := os.MkdirTemp("/var/tmp", "mounts") // /tmp is the session's own
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(base)
	at := func(name string) string { return filepath.Join(base, name) }
	mount := func(dir string) {
		t.Helper()
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("host", dir, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount(base, base, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(base, unix.MNT_DETACH)
	if err := unix.Mount("", base, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	mount(at("before"))
	w := sandboxtest.Start(t, newDriver(), nil)
	mount(at("later"))
	shown := "grep -c ' " + base + "/[a-z]* .* - tmpfs host' /proc/self/mountinfo"
	w.Want(shown+"; mkdir "+at("own")+"; mount -t tmpfs own "+at("own")+" && echo mine", "2\nmine\n", toolset.Exited, 0)
	for _, name := range []string{"before", "later"} {
		// What another test starts in mounts of its own has a copy for a moment.
		err := unix.Unmount(at(name), 0)
		for end := time.Now().Add(time.Minute); err == unix.EBUSY && time.Now().Before(end); err = unix.Unmount(at(name), 0) {
			<-time.After(10 * time.Millisecond)
		}
		if err != nil {
			t.Error(err)
		}
	}
	w.Want(shown, "0\n", toolset.Exited, 1)
	if err := unix.Unmount(at("own"), 0); err != unix.EINVAL {
		t.Errorf("a session's mount is the host's: %v", err)
	}
}
