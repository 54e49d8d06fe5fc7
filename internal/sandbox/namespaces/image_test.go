package namespaces_test

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/berthdev/berth/internal/images"
	"github.com/berthdev/berth/internal/images/imagetest"
	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/sandboxtest"
	"github.com/berthdev/berth/toolset"
)

// unpacked is an image in a store of the test's own.
func unpacked(t testing.TB, img v1.Image) *sandbox.Image {
	t.Helper()
	file := filepath.Join(t.TempDir(), "image.tar")
	tag, err := name.NewTag("test.example/image:v1")
	if err != nil {
		t.Fatal(err)
	}
	if err := tarball.WriteToFile(file, tag, img); err != nil {
		t.Fatal(err)
	}
	store, err := images.Open(images.Config{Dir: filepath.Join(t.TempDir(), "images")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	got, err := store.Get(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	return &got
}

// imprint is a tree with names, modes, links and contents.
func imprint(t testing.TB, dir string) string {
	t.Helper()
	sum := sha256.New()
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		to, _ := os.Readlink(p)
		var b []byte
		if info.Mode().IsRegular() {
			if b, err = os.ReadFile(p); err != nil {
				return err
			}
		}
		fmt.Fprintln(sum, p, info.Mode(), info.ModTime(), to, len(b))
		sum.Write(b)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

func TestImage(t *testing.T) {
	d := newDriver()
	if p := d.Probe(t.Context()); !p.OK {
		t.Skipf("namespaces cannot be made here: %s (%s)", p.Reason, p.Cure)
	}
	img := unpacked(t, imagetest.Bash(t, imagetest.Layer(t,
		imagetest.File{Name: "opt/bin/own", Body: "#!/bin/bash\necho from the image", Mode: 0o4755},
		imagetest.File{Name: "open/", Mode: 0o777}, imagetest.File{Name: "data/theirs", Body: "x"})))
	before := imprint(t, img.Root)
	data, theirs := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(data, "mine"), []byte("shown\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "sandboxes")
	k, err := sandbox.NewKeeper(sandbox.KeeperConfig{Driver: d, Dir: dir, Spec: sandbox.Spec{
		Image: img, User: sandbox.User{Name: "dev", UID: 1234}, Mounts: []sandbox.Mount{{Source: data, Target: "/data", ReadOnly: true}, {Source: theirs, Target: "/srv/x"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.Stop(t.Context()) })
	for _, session := range []string{"sesn_one", "sesn_two"} { // the second finds nothing of the first
		h, _, err := k.Open(t.Context(), session)
		if err != nil {
			t.Fatal(err)
		}
		w := &sandboxtest.World{Sandbox: h.Sandbox(), T: t}
		for text, want := range map[string]string{
			"cat /etc/os-release":                "ID=berth-test\n",
			"own":                                "from the image\n",
			"id -u; id -un; id -gn":              "1234\ndev\ndev\n",
			"echo $HOME $USER $FROM_IMAGE $PATH": "/home/dev dev yes /opt/bin:/usr/bin:/bin\n",
			"grep() { while read -r l; do case $l in $1*) echo \"$l\";; esac; done; }; grep www </etc/passwd; grep dev </etc/passwd": "www:x:33:33::/var/www:/bin/false\ndev:x:1234:1234:dev:/home/dev:/bin/bash\n",
			"echo $(</etc/hostname); pwd": "sandbox\n/workspace\n",
			"cat /data/mine; ls /data":    "shown\nmine\n",
			"echo >/home/dev/x && echo >/tmp/x && echo >/dev/shm/x && echo >/var/tmp/y && ls /tmp; rm /tmp/*":                    "x\ny\n",
			"for d in / /usr /usr/bin /etc /opt/bin /open /data; do (echo >$d/x) 2>/dev/null && echo $d is writable; done; true": "",
			"echo more >/srv/x/of-$RANDOM && echo ok":                             "ok\n",
			"echo x >/dev/null && head -c 3 /dev/zero | stat -L -c %F /dev/stdin": "fifo\n",
		} {
			w.Want(text, want, toolset.Exited, 0)
		}
		if os.Getuid() == 0 { // for an ordinary user the image is its own
			w.Want("cat /etc/shadow 2>/dev/null", "", toolset.Exited, 1)
		}
		if err := h.Close(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		rec, err := sandbox.ReadReceipt(filepath.Join(dir, session))
		if err != nil || len(rec.Checks) < 10 {
			t.Errorf("receipt: %+v %v", rec, err)
		}
	}
	if imprint(t, img.Root) != before {
		t.Error("the image has changed")
	}
}

// TestHostileImage has links and files wherever a sandbox wants a place of its
// own: none is followed on the host.
func TestHostileImage(t *testing.T) {
	d := newDriver()
	if p := d.Probe(t.Context()); !p.OK {
		t.Skipf("namespaces cannot be made here: %s (%s)", p.Reason, p.Cure)
	}
	outside := t.TempDir()
	if err := os.Chmod(outside, 0o777); err != nil {
		t.Fatal(err)
	}
	var traps []imagetest.File
	for _, name := range []string{"etc/passwd", "etc/group", "etc/hosts", "etc/hostname", "etc/resolv.conf", "dev", "proc", "run", "home", "tmp", "workspace", "mnt", "var", "data"} {
		traps = append(traps, imagetest.File{Name: name, Link: outside})
	}
	files := imagetest.Programs(t, "bash", "cat", "ls")
	img := unpacked(t, imagetest.Image(t, nil, imagetest.Layer(t, imagetest.File{Name: "bin", Link: "/usr/bin"}, imagetest.File{Name: "dev/null", Kind: tar.TypeReg}), imagetest.Layer(t, files...), imagetest.Layer(t, traps...)))
	w := sandboxtest.Start(t, d, func(s *sandbox.Spec) {
		s.Image, s.Mounts = img, []sandbox.Mount{{Source: outside, Target: "/data", ReadOnly: true}}
	})
	w.Want("echo x >/tmp/x; echo x >/home/agent/x; echo x >/dev/null; cat /etc/hostname; ls /data", "sandbox\n", toolset.Exited, 0)
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
		t.Errorf("outside: %v %v", left, err)
	}
	for _, c := range [][]imagetest.File{
		{{Name: "bin/sh", Body: "x"}},
		{{Name: "bin/bash", Link: "/proc/self/exe"}},
		{{Name: "bin/bash", Link: "../../../../../../bin/bash"}},
		{{Name: "bin/bash", Body: "no program", Mode: 0o644}},
	} {
		bare := unpacked(t, imagetest.Image(t, nil, imagetest.Layer(t, c...)))
		dir := filepath.Join(t.TempDir(), "sandbox")
		if err := os.MkdirAll(filepath.Join(dir, "tree"), 0o755); err != nil {
			t.Fatal(err)
		}
		_, err := d.Start(t.Context(), sandbox.Spec{SessionID: "sesn_bare", Dir: dir, Tree: filepath.Join(dir, "tree"), Image: bare})
		if err == nil || !strings.Contains(err.Error(), bare.Ref) || !strings.Contains(err.Error(), "has no bash") {
			t.Errorf("an image without bash: %v", err)
		}
	}
}

func TestImageForOrdinaryUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("this is an ordinary user already: TestImage is the test")
	}
	sandboxtest.AsOrdinaryUser(t, "^(TestImage|TestHostileImage|TestHostNetwork)$")
}

// imaged is the driver with an image for every session.
type imaged struct {
	sandbox.Driver
	img *sandbox.Image
}

func (d imaged) Start(ctx context.Context, spec sandbox.Spec) (sandbox.Sandbox, error) {
	spec.Image = d.img
	return d.Driver.Start(ctx, spec)
}

// BenchmarkStartImage measures Start and the first command's output, the
// overlay of an image included.
func BenchmarkStartImage(b *testing.B) {
	sandboxtest.BenchmarkStart(b, imaged{newDriver(), unpacked(b, imagetest.Bash(b))})
}

// TestHostNetwork gives a session the host's network, which a policy can name.
func TestHostNetwork(t *testing.T) {
	d := newDriver()
	if p := d.Probe(t.Context()); !p.OK {
		t.Skipf("namespaces cannot be made here: %s (%s)", p.Reason, p.Cure)
	}
	ours, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	w := sandboxtest.Start(t, d, func(s *sandbox.Spec) { s.Network.Mode = sandbox.NetworkHost })
	w.Want("readlink /proc/self/ns/net", ours+"\n", toolset.Exited, 0)
	resolv, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		t.Fatal(err)
	}
	w.Want("cat /etc/resolv.conf", string(resolv), toolset.Exited, 0)
	alone := sandboxtest.Start(t, d, nil)
	if r := alone.Do("readlink /proc/self/ns/net"); string(r.Head) == ours+"\n" {
		t.Error("a session without a policy is in the host's network")
	}
}
