package docker_test

import (
	"archive/tar"
	"context"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/docker"
	"github.com/berthdev/berth/internal/sandbox/docker/dockertest"
	"github.com/berthdev/berth/internal/sandbox/sandboxtest"
	"github.com/berthdev/berth/toolset"
)

// TestImage runs one image in each form in which it may come.
func TestImage(t *testing.T) {
	d := newDriver(t, nil)
	im := dockertest.Image(t, func(c *v1.Config) {
		c.Volumes = map[string]struct{}{"/var/data": {}}
		c.User = "root"
	})
	saved, dir := dockertest.Tarball(t, im), dockertest.Layout(t, im)
	packed := pack(t, dir)
	id, err := im.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, ref string }{
		{"a docker tarball", saved}, {"an OCI layout", dir}, {"an OCI tarball", packed},
		{"a name that the daemon knows", "berth.local/image:" + id.Hex}, {"a digest that the daemon knows", id.String()},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := sandboxtest.Start(t, d, func(s *sandbox.Spec) {
				s.Image = &sandbox.Image{Ref: c.ref}
				s.Env = map[string]string{"MINE": "too"}
			})
			w.Want("cat /etc/made-by; echo $FROM_IMAGE $MINE; echo $PATH; id -un; id -gn; echo $HOME; pwd", "dockertest\nyes too\n/usr/bin:/usr/sbin:/bin:/opt/bin\nagent\nagent\n/home/agent\n/workspace\n", toolset.Exited, 0)
			w.Want("grep -c www: /etc/passwd; touch /etc/x 2>/dev/null; echo $?; echo x >/var/data/x && cat /var/data/x", "1\n1\nx\n", toolset.Exited, 0)
			w.Want("ls /usr/bin/python3 2>&-", "", toolset.Exited, 2)
		})
	}
}

func TestImageSuite(t *testing.T) {
	if os.Getenv("BERTH_SOAK") == "" {
		t.Skip("by design: make soak runs the suite on an image too")
	}
	lend(t)
	path := dockertest.Tarball(t, dockertest.Image(t, nil))
	sandboxtest.Run(t, func() sandbox.Driver { return imaged{newDriver(t, nil), path} })
}

// imaged gives every session an image.
type imaged struct {
	*docker.Driver
	ref string
}

func TestBadImages(t *testing.T) {
	d := newDriver(t, nil)
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("no tarball at all, however long it may be"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ ref, want string }{
		"unknown":      {"berth.test/nowhere:1", "docker pull berth.test/nowhere:1"},
		"no bash":      {dockertest.Tarball(t, dockertest.Image(t, nil, "sh", "cat")), "has no bash"},
		"no tarball":   {text, "no tarball"},
		"no such file": {"/nowhere/image.tar", "no such file"},
		"no layout":    {t.TempDir(), "no OCI layout"},
		"no name":      {"not a name!", "not a name!"},
	} {
		dir := t.TempDir()
		spec := sandbox.Spec{SessionID: "sesn_bad", Dir: dir, Tree: filepath.Join(dir, "tree"), Image: &sandbox.Image{Ref: c.ref}}
		if err := os.Mkdir(spec.Tree, 0o755); err != nil {
			t.Fatal(err)
		}
		sb, err := d.Start(t.Context(), spec)
		if err == nil {
			_ = sb.Stop(t.Context())
			t.Errorf("%s: it started", name)
			continue
		}
		if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v does not say %q", name, err, c.want)
		}
		if entries, _ := os.ReadDir(dir); len(entries) != 1 {
			t.Errorf("%s: %v is left", name, entries)
		}
	}
	if left := containers(t, d); len(left) > 0 {
		t.Errorf("containers are left: %v", left)
	}
}

// containers are all that the driver finds of its own.
func containers(t *testing.T, d *docker.Driver) (names []string) {
	t.Helper()
	left, err := d.Leftovers(t.Context(), func(string) bool { return false })
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range left {
		names = append(names, l.Name)
	}
	return names
}

// pack makes a tarball of a directory.
func pack(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "oci.tar")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(f)
	err = filepath.WalkDir(dir, func(at string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, _ := filepath.Rel(dir, at)
		b, err := os.ReadFile(at)
		if err != nil {
			return err
		}
		if err := w.WriteHeader(&tar.Header{Name: "./" + rel, Mode: 0o644, Size: int64(len(b))}); err != nil {
			return err
		}
		_, err = w.Write(b)
		return err
	})
	// What is no part of a layout is not unpacked.
	for _, name := range []string{"../escape", "blobs/sha256/../../../escape"} {
		err = firstOf(err, w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: 1}))
		_, e := io.WriteString(w, "x")
		err = firstOf(err, e)
	}
	if err = firstOf(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func firstOf(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

func (d imaged) Start(ctx context.Context, s sandbox.Spec) (sandbox.Sandbox, error) {
	if s.Image == nil {
		s.Image = &sandbox.Image{Ref: d.ref}
	}
	return d.Driver.Start(ctx, s)
}
