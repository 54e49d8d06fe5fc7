package child

import (
	"golang.org/x/sys/unix"
)

// ground is what the mounts of a Boot that Renews begin from: those that the
// agent was started among, where its sources are, and a namespace with none but
// an empty root, in a copy of which they are built. So no Boot copies the host's
// mounts, to let go of most of them, nor has the kernel look at every process for
// one with the old root (pivot_root).
type ground struct {
	host, root int // the namespace, and this thread's root in it
	bare       int
}

// freshDir is all that is in the bare root: where a fresh one is mounted.
const freshDir = "/fresh"

// newGround takes this thread, and none but it, to a namespace of its own.
func newGround() (g *ground, err error) {
	const ours = "/proc/thread-self/ns/mnt"
	g = &ground{}
	if g.host, err = unix.Open(ours, unix.O_RDONLY|unix.O_CLOEXEC, 0); err == nil {
		g.root, err = unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	}
	if err == nil {
		err = unix.Unshare(unix.CLONE_NEWNS)
	}
	if err == nil {
		g.bare, err = unix.Open(ours, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	}
	if err == nil {
		err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	}
	if err != nil {
		return nil, fail("hold the host's mounts", err)
	}
	b := &builder{}
	if err := b.root("mode=0755,size=4k,nr_inodes=8"); err != nil {
		return nil, err
	}
	if err := makeDirs(b.base+freshDir, 0o755); err != nil {
		return nil, err
	}
	if err := unix.Mount("", b.base, "", unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, ""); err != nil {
		return nil, fail("make the bare root read-only", err)
	}
	return g, b.pivot()
}

// stand takes this thread to the host's mounts. Where it was is nobody's then.
func (g *ground) stand() error {
	err := unix.Setns(g.host, unix.CLONE_NEWNS)
	if err == nil {
		err = unix.Fchdir(g.root)
	}
	if err == nil {
		err = unix.Chroot(".")
	}
	return fail("go back to the host's mounts", err)
}

// leave takes it to a copy of the bare namespace.
func (g *ground) leave() error {
	err := unix.Setns(g.bare, unix.CLONE_NEWNS)
	if err == nil {
		err = unix.Unshare(unix.CLONE_NEWNS)
	}
	return fail("unshare the mounts", err)
}

// rise makes the fresh root the root, over the bare one.
func (b *builder) rise() error {
	err := unix.Chdir(b.base)
	if err == nil {
		err = unix.Mount(".", "/", "", unix.MS_MOVE, "")
	}
	if err == nil {
		err = unix.Chroot(".")
	}
	if err == nil {
		err = unix.Chdir("/")
	}
	b.base = ""
	return fail("make the fresh root the root", err)
}
