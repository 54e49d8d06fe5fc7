package inside

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/internal/agentwire"
	"github.com/berthdev/berth/internal/sandbox"
)

// Over is what lies over the root of Spec.Image, and where its bash is.
// Whatever the image has at these places, links included, is covered: none of
// its names is followed on the host.
func Over(spec sandbox.Spec) (steps []agentwire.Step, bash string, err error) {
	root, err := unix.Open(spec.Image.Root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, "", fmt.Errorf("image %s: %w", spec.Image.Ref, err)
	}
	defer unix.Close(root)
	if bash, err = shell(root); err != nil {
		return nil, "", fmt.Errorf("image %s: %w", spec.Image.Ref, err)
	}
	passwd, err := read(root, "etc/passwd")
	if err != nil {
		return nil, "", fmt.Errorf("image %s: %w", spec.Image.Ref, err)
	}
	group, err := read(root, "etc/group")
	if err != nil {
		return nil, "", fmt.Errorf("image %s: %w", spec.Image.Ref, err)
	}
	steps = names(spec, passwd, group)
	steps = append(steps, agentwire.Step{Kind: agentwire.StepDir, Target: spec.User.Filled().Home(), Mode: 0o755})
	for _, l := range [][2]string{{"/var/tmp", "/tmp"}, {"/var/run", "/run"}} {
		steps = append(steps, agentwire.Step{Kind: agentwire.StepDir, Target: "/var", Mode: 0o755},
			agentwire.Step{Kind: agentwire.StepLink, Target: l[0], Source: l[1]})
	}
	return steps, bash, nil
}

// shell finds bash in an image.
func shell(root int) (string, error) {
	for _, path := range []string{"/bin/bash", "/usr/bin/bash", "/usr/local/bin/bash"} {
		fd, err := within(root, path, unix.O_PATH)
		if err != nil {
			continue
		}
		var st unix.Stat_t
		err = unix.Fstat(fd, &st)
		unix.Close(fd)
		if err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Mode&0o111 != 0 {
			return path, nil
		}
	}
	return "", errors.New("it has no bash, without which tools cannot run; use an image with one, or add it (apk add bash)")
}

// maxNames bounds an image's passwd and group, in bytes.
const maxNames = 1 << 20

// read reads a small file of an image; nil when there is none.
func read(root int, path string) ([]byte, error) {
	fd, err := within(root, path, unix.O_RDONLY|unix.O_NONBLOCK)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("/%s: %w", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxNames+1))
	if err == nil && len(b) > maxNames {
		err = fmt.Errorf("/%s is larger than 1 MiB", path)
	}
	return b, err
}

// within opens a path with the image as the root.
func within(root int, path string, flags uint64) (int, error) {
	return unix.Openat2(root, path, &unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS})
}
