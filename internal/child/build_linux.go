package child

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/internal/agentwire"
)

// bases are directories of the host over which the fresh root may be built.
// The mount hides one for a moment, in our own mount namespace only.
var bases = []string{"/tmp", "/mnt", "/run", "/var"}

// builder does the steps of a Boot.
type builder struct {
	base string // where the fresh root is, "" when there is none
	over string // what lies over an image, once it does
	open []int  // per step: the source's mount, detached, or -1

	ground *ground // nil where the mounts are this process's already
	kind   uint64  // with a ground: how clones are apart from their sources
}

// build does the steps in order. With a ground, on which this thread stands, it
// is left when the sources are taken: what is built is in a namespace of its own.
func build(steps []agentwire.Step, g *ground) error {
	unix.Umask(0)
	defer unix.Umask(0o022)
	b := &builder{open: make([]int, len(steps)), ground: g, kind: unix.MS_PRIVATE}
	for i := range b.open {
		b.open[i] = -1
	}
	defer b.close()
	apart := 0
	for apart < len(steps) && (steps[apart].Kind == agentwire.StepPrivate || steps[apart].Kind == agentwire.StepSlave) {
		apart++
	}
	if err := b.all(steps, 0, apart); err != nil {
		return err
	}
	if err := b.take(steps); err != nil {
		return err
	}
	if g != nil {
		if err := g.leave(); err != nil {
			return err
		}
	}
	return b.all(steps, apart, len(steps))
}

func (b *builder) all(steps []agentwire.Step, from, to int) error {
	for i := from; i < to; i++ {
		if err := b.step(i, steps[i]); err != nil && !steps[i].Optional {
			return err
		}
	}
	return nil
}

// take clones all sources, before the fresh root may cover one and after mounts
// are apart from those outside: a clone is what its source was.
func (b *builder) take(steps []agentwire.Step) error {
	const flags = unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_RECURSIVE | unix.AT_NO_AUTOMOUNT
	for i, s := range steps {
		if s.Kind != agentwire.StepBind && s.Kind != agentwire.StepImage {
			continue
		}
		if s.FD > 0 {
			b.open[i] = s.FD
			unix.CloseOnExec(s.FD)
			continue
		}
		fd, err := unix.OpenTree(unix.AT_FDCWD, s.Source, flags)
		if err == nil {
			b.open[i] = fd
			if b.ground != nil {
				err = unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &unix.MountAttr{Propagation: b.kind})
			}
		} else if s.Optional {
			continue
		}
		if err != nil {
			return fail("clone "+s.Source, err)
		}
	}
	return nil
}

func (b *builder) close() {
	for _, fd := range b.open {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

func (b *builder) step(i int, s agentwire.Step) error {
	at := b.base + s.Target
	switch s.Kind {
	case agentwire.StepPrivate:
		if b.ground != nil {
			b.kind = unix.MS_PRIVATE
			return nil
		}
		return fail("make mounts private", unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	case agentwire.StepSlave:
		if b.ground != nil {
			b.kind = unix.MS_SLAVE
			return nil
		}
		return fail("make mounts followers", unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""))
	case agentwire.StepRoot:
		return b.root(string(s.Data))
	case agentwire.StepDir:
		return makeDirs(at, s.Mode)
	case agentwire.StepFile:
		return writeFile(at, s.Data, s.Mode)
	case agentwire.StepLink:
		return fail("link "+s.Target, unix.Symlink(s.Source, at))
	case agentwire.StepBind:
		return b.bind(i, s, at)
	case agentwire.StepUnmount:
		return fail("unmount "+s.Target, unix.Unmount(at, unix.MNT_DETACH))
	case agentwire.StepSelf:
		from := at
		switch {
		case s.Source != "":
			from = b.base + s.Source
		case b.over != "":
			from = b.over + s.Target // the overlay cannot be written to
		}
		err := unix.Mount(from, at, "", unix.MS_BIND, "")
		if err == nil && s.ReadOnly {
			err = setAttr(unix.AT_FDCWD, at, 0, unix.MOUNT_ATTR_RDONLY)
		}
		return fail("mount "+s.Target, err)
	case agentwire.StepEnter:
		return fail("enter "+s.Target, unix.Chdir(at))
	case agentwire.StepImage:
		return b.image(i, s)
	case agentwire.StepOverlay:
		return b.overlay()
	case agentwire.StepMemory:
		if err := makeDirs(at, 0o755); err != nil {
			return err
		}
		return fail("mount "+s.Target, unix.Mount("run", at, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, string(s.Data)))
	case agentwire.StepDisk:
		if err := makeDirs(at, 0o755); err != nil {
			return err
		}
		return fail("mount "+s.Target, unix.Mount("disk", at, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, string(s.Data)))
	case agentwire.StepProc:
		return fail("mount proc", unix.Mount("proc", at, "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""))
	case agentwire.StepPts:
		return fail("mount devpts", unix.Mount("devpts", at, "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620"))
	case agentwire.StepFreeze:
		return fail("make the root read-only", setAttr(unix.AT_FDCWD, b.base, 0, unix.MOUNT_ATTR_RDONLY))
	case agentwire.StepPivot:
		if b.ground != nil {
			return b.rise()
		}
		return b.pivot()
	case agentwire.StepLoopback:
		return loopback()
	case agentwire.StepHostname:
		return fail("set the host name", unix.Sethostname([]byte(s.Source)))
	case agentwire.StepPlain:
		return fail("drop ambient capabilities", unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))
	case agentwire.StepNoUsers:
		return writeFile(at+"/proc/sys/user/max_user_namespaces", []byte("0"), 0)
	}
	return errors.New("an unknown step")
}

func (b *builder) root(options string) error {
	var err error
	at := bases
	if b.ground != nil {
		at = []string{freshDir}
	}
	for _, base := range at {
		if err = unix.Mount("root", base, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, options); err == nil {
			b.base = base
			return nil
		}
	}
	return fail("mount a fresh root", err)
}

// Where an image and what lies over it are while they become one root.
const (
	imageDir = "/image"
	overDir  = "/over"
	bothDir  = "/both"
)

// image puts an image below what is made from here on.
func (b *builder) image(i int, s agentwire.Step) error {
	for _, dir := range []string{overDir, bothDir} {
		if err := makeDirs(b.base+dir, 0o755); err != nil {
			return err
		}
	}
	s.Target, s.ReadOnly = imageDir, true
	if err := b.bind(i, s, b.base+imageDir); err != nil {
		return err
	}
	b.base += overDir
	return nil
}

// overlay makes the image and what lies over it the root.
func (b *builder) overlay() error {
	top := strings.TrimSuffix(b.base, overDir)
	err := unix.Mount("image", top+bothDir, "overlay", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, "lowerdir="+top+overDir+":"+top+imageDir)
	b.over, b.base = b.base, top+bothDir
	return fail("mount the image's overlay", err)
}

// bind mounts a source. The flags are on it before it can be seen.
func (b *builder) bind(i int, s agentwire.Step, at string) error {
	fd := b.open[i]
	if fd < 0 {
		return unix.ENOENT
	}
	kind := s.Mode & unix.S_IFMT
	if kind == 0 {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return fail("stat "+s.Source, err)
		}
		kind = st.Mode & unix.S_IFMT
	}
	if kind == unix.S_IFDIR {
		if err := makeDirs(at, 0o755); err != nil {
			return err
		}
	} else if err := writeFile(at, nil, 0o644); err != nil {
		return err
	}
	var attr uint64
	if s.ReadOnly {
		attr |= unix.MOUNT_ATTR_RDONLY
	}
	if !s.Devices {
		attr |= unix.MOUNT_ATTR_NODEV
	}
	if !s.Setuid {
		attr |= unix.MOUNT_ATTR_NOSUID
	}
	if attr != 0 {
		if err := setAttr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, attr); err != nil {
			return fail("restrict "+s.Target, err)
		}
	}
	return fail("mount "+s.Target, unix.MoveMount(fd, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH))
}

func setAttr(fd int, path string, flags uint, attr uint64) error {
	return unix.MountSetattr(fd, path, flags, &unix.MountAttr{Attr_set: attr})
}

// pivot makes the fresh root the root, and lets go of the old one.
func (b *builder) pivot() error {
	if err := unix.Chdir(b.base); err != nil {
		return fail("chdir", err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fail("pivot_root", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fail("unmount the old root", err)
	}
	b.base = ""
	return fail("chdir", unix.Chdir("/"))
}

// makeDirs makes a directory and the parents it lacks.
func makeDirs(path string, mode uint32) error {
	err := unix.Mkdir(path, mode)
	if err == unix.ENOENT {
		at := strings.LastIndexByte(path, '/')
		if at <= 0 {
			return fail("mkdir "+path, err)
		}
		if err := makeDirs(path[:at], 0o755); err != nil {
			return err
		}
		err = unix.Mkdir(path, mode)
	}
	if err == unix.EEXIST || err == unix.EROFS {
		var st unix.Stat_t
		if e := unix.Stat(path, &st); e == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
			return nil
		}
	}
	return fail("mkdir "+path, err)
}

// writeFile writes a file whole, and makes the parents it lacks. With mode 0
// the file must be there.
func writeFile(path string, data []byte, mode uint32) error {
	flags := unix.O_WRONLY | unix.O_CLOEXEC
	if mode != 0 {
		flags |= unix.O_CREAT | unix.O_EXCL
	}
	fd, err := unix.Open(path, flags, mode)
	if err == unix.ENOENT && mode != 0 {
		if err := makeDirs(path[:strings.LastIndexByte(path, '/')], 0o755); err != nil {
			return err
		}
		fd, err = unix.Open(path, flags, mode)
	}
	if err == unix.EEXIST && len(data) == 0 {
		return nil
	}
	if err != nil {
		return fail("write "+path, err)
	}
	defer unix.Close(fd)
	for len(data) > 0 {
		n, err := unix.Write(fd, data)
		if err != nil {
			return fail("write "+path, err)
		}
		data = data[n:]
	}
	return nil
}

// loopback brings lo up: a network of the sandbox's own, with nobody else.
func loopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fail("loopback", err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return fail("loopback", unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr))
}
