package images_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/berthdev/berth/internal/archive"
	"github.com/berthdev/berth/internal/images"
	"github.com/berthdev/berth/internal/images/imagetest"
	"github.com/berthdev/berth/internal/sandbox"
)

type file = imagetest.File

// sample is an image with something of everything, and what its root is.
func sample(t testing.TB) v1.Image {
	return imagetest.Image(t, []string{"PATH=/x:/usr/bin", "broken", "A=1"},
		imagetest.Layer(t, file{Name: "etc/a", Body: "1"}, file{Name: "gone", Body: "1"}, file{Name: "lib", Link: "usr/lib"}, file{Name: "usr/lib/"}),
		imagetest.Layer(t, file{Name: "etc/a", Body: "2", Mode: 0o4640}, file{Name: ".wh.gone"}, file{Name: "lib/so", Body: "s"}, file{Name: "dev/null", Kind: tar.TypeChar}, file{Name: "b", Link: "etc/a", Kind: tar.TypeLink}))
}

const sampleRoot = "b -rw-r----- 2\netc drwxr-xr-x\netc/a -rw-r----- 2\nlib Lrwxrwxrwx usr/lib\nusr drwxr-xr-x\nusr/lib drwxr-xr-x\nusr/lib/so -rwxr-xr-x s"

func shape(t testing.TB, dir string) string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		line := strings.TrimPrefix(p, dir+"/") + " " + info.Mode().String()
		switch info.Mode().Type() {
		case 0:
			b, _ := os.ReadFile(p)
			line += " " + string(b)
		case fs.ModeSymlink:
			to, _ := os.Readlink(p)
			line += " " + to
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func open(t testing.TB, change func(*images.Config)) *images.Store {
	t.Helper()
	cfg := images.Config{Dir: filepath.Join(t.TempDir(), "images"), Keychain: authn.NewMultiKeychain()}
	if change != nil {
		change(&cfg)
	}
	s, err := images.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func get(t testing.TB, s *images.Store, ref string) sandbox.Image {
	t.Helper()
	img, err := s.Get(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// writeLayout writes images into a layout, each with a tag.
func writeLayout(t testing.TB, all map[string]v1.Image) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "layout")
	l, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	for tag, img := range all {
		if err := l.AppendImage(img, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": tag})); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// pack makes a tar of a directory, compressed by wrap.
func pack(t testing.TB, dir string, wrap func(io.Writer) io.WriteCloser) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "packed")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	out := wrap(f)
	w := tar.NewWriter(out)
	err = errors.Join(w.AddFS(os.DirFS(dir)), w.Close(), out.Close())
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func reference(t testing.TB, s string) name.Reference {
	t.Helper()
	r, err := name.ParseReference(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

type plain struct{ io.Writer }

func (plain) Close() error { return nil }

func TestEveryForm(t *testing.T) {
	img := sample(t)
	dir := writeLayout(t, map[string]v1.Image{"one": img, "other": imagetest.Image(t, nil, imagetest.Layer(t, file{Name: "other"}))})
	alone := writeLayout(t, map[string]v1.Image{"": img})
	docker := filepath.Join(t.TempDir(), "docker.tar")
	if err := tarball.WriteToFile(docker, reference(t, "test.example/sample:v1"), img); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(docker)
	if err != nil {
		t.Fatal(err)
	}
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	z.Write(raw)
	z.Close()
	if err := os.WriteFile(docker+".gz", zipped.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	reg := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer reg.Close()
	host := strings.TrimPrefix(reg.URL, "http://")
	if err := remote.Write(reference(t, host+"/sample:v1"), img); err != nil {
		t.Fatal(err)
	}
	manifest, _ := img.Digest()
	index := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: imagetest.Image(t, nil), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "mips64"}}},
		mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: platform(t, img)}})
	if err := remote.WriteIndex(reference(t, host+"/list:v1"), index); err != nil {
		t.Fatal(err)
	}
	nested := filepath.Join(t.TempDir(), "nested")
	l, err := layout.Write(nested, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.AppendIndex(index); err != nil {
		t.Fatal(err)
	}
	id, _ := img.ConfigName()
	for form, ref := range map[string]string{
		"layout": alone, "layout with a tag": dir + ":one", "layout with lists": nested,
		"layout in a tar":    pack(t, alone, func(w io.Writer) io.WriteCloser { return plain{w} }),
		"layout in a tar.gz": pack(t, dir, func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }) + ":one",
		"layout in a tar.zst": pack(t, alone, func(w io.Writer) io.WriteCloser {
			z, _ := zstd.NewWriter(w)
			return z
		}),
		"docker save": docker, "docker save with a tag": docker + ":v1", "docker save in gzip": docker + ".gz",
		"registry": host + "/sample:v1", "registry by digest": host + "/sample@" + manifest.String(), "registry with lists": "docker://" + host + "/list:v1",
	} {
		s := open(t, nil)
		got := get(t, s, ref)
		if got.Ref != ref || got.Digest != id.String() || !slices.Equal(got.Env, []string{"PATH=/x:/usr/bin", "A=1"}) {
			t.Errorf("%s: %+v", form, got)
		}
		if root := shape(t, got.Root); root != sampleRoot {
			t.Errorf("%s:\n%s\nwant\n%s", form, root, sampleRoot)
		}
		if left, _ := filepath.Glob(filepath.Join(filepath.Dir(filepath.Dir(got.Root)), ".*")); len(left) > 0 {
			t.Errorf("%s: %v is left", form, left)
		}
	}
}

func platform(t testing.TB, img v1.Image) *v1.Platform {
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	return &v1.Platform{OS: c.OS, Architecture: c.Architecture}
}

// What is wrong with an image is said, with its name and a cure, and nothing
// of it stays.
func TestRefused(t *testing.T) {
	damage := func(change func(dir string, img v1.Image)) string {
		img := sample(t)
		dir := writeLayout(t, map[string]v1.Image{"": img})
		change(dir, img)
		return dir
	}
	blob := func(dir string, h v1.Hash) string { return filepath.Join(dir, "blobs/sha256", h.Hex) }
	rewrite := func(path string, b []byte) {
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	layerOf := func(img v1.Image) v1.Layer {
		all, err := img.Layers()
		if err != nil {
			t.Fatal(err)
		}
		return all[1]
	}
	liar := func(config func(*v1.ConfigFile)) string {
		img := sample(t)
		c, _ := img.ConfigFile()
		c = c.DeepCopy()
		config(c)
		lying, err := mutate.ConfigFile(img, c)
		if err != nil {
			t.Fatal(err)
		}
		return writeLayout(t, map[string]v1.Image{"": lying})
	}
	hostile := writeLayout(t, map[string]v1.Image{"": imagetest.Image(t, nil, imagetest.Layer(t, file{Name: "../../etc/x", Body: "x"}))})
	big := writeLayout(t, map[string]v1.Image{"": imagetest.Image(t, nil, imagetest.Layer(t, file{Name: "a", Body: strings.Repeat("x", 600<<10)}), imagetest.Layer(t, file{Name: "b", Body: strings.Repeat("x", 600<<10)}))})
	noise := filepath.Join(t.TempDir(), "noise")
	rewrite(noise, bytes.Repeat([]byte("noise"), 1000))
	for ref, says := range map[string]string{
		"/nowhere":        "its path cannot be read",
		t.TempDir():       "neither an OCI layout nor an archive of docker save",
		noise:             "is no tar archive",
		"not a reference": "it is no reference",
		"127.0.0.1:1/x":   "the registry does not give it",
		"10.1.1.1:5000/x": "would be asked without TLS",
		hostile:           "has .. in its name; use another image",
		big:               "above",
		writeLayout(t, map[string]v1.Image{"a": sample(t), "b": imagetest.Image(t, nil, imagetest.Layer(t))}):    "it has 2 images; name one by PATH:TAG",
		writeLayout(t, map[string]v1.Image{"a": sample(t)}) + ":b":                                               "it has no image b",
		liar(func(c *v1.ConfigFile) { c.Architecture = "mips64" }):                                               "it is for linux/mips64",
		liar(func(c *v1.ConfigFile) { c.RootFS.DiffIDs = c.RootFS.DiffIDs[:1] }):                                 "names 1 layers, and it has 2",
		liar(func(c *v1.ConfigFile) { c.RootFS.DiffIDs[1] = c.RootFS.DiffIDs[0] }):                               "is not what its digest",
		damage(func(dir string, img v1.Image) { h, _ := img.ConfigName(); rewrite(blob(dir, h), []byte("{}")) }): "shorter than it says",
		damage(func(dir string, img v1.Image) {
			h, _ := img.ConfigName()
			b, _ := os.ReadFile(blob(dir, h))
			rewrite(blob(dir, h), bytes.Replace(b, []byte("PATH=/x"), []byte("PATH=/y"), 1))
		}): "is not what its digest",
		damage(func(dir string, img v1.Image) {
			h, _ := layerOf(img).Digest()
			b, _ := os.ReadFile(blob(dir, h))
			rewrite(blob(dir, h), append(b, 0))
		}): "longer than it says",
		damage(func(dir string, img v1.Image) {
			h, _ := layerOf(img).Digest()
			b, _ := os.ReadFile(blob(dir, h))
			b[len(b)/2] ^= 1
			rewrite(blob(dir, h), b)
		}): "",
		damage(func(dir string, img v1.Image) {
			h, _ := layerOf(img).Digest()
			os.Remove(blob(dir, h))
		}): "no such file",
		damage(func(dir string, img v1.Image) {
			h, _ := layerOf(img).Digest()
			os.Remove(blob(dir, h))
			os.Symlink("/etc/passwd", blob(dir, h))
		}): "escapes",
		damage(func(dir string, _ v1.Image) { rewrite(filepath.Join(dir, "index.json"), []byte("{")) }): "list of manifests cannot be read",
	} {
		var dir string
		s := open(t, func(c *images.Config) {
			c.Limits = archive.Limits{Members: 100, Bytes: 1 << 20}
			dir = c.Dir
		})
		img, err := s.Get(t.Context(), ref)
		ie, ok := errors.AsType[*images.Error](err)
		if !ok || ie.Cure == "" || !strings.Contains(err.Error(), says) || !strings.HasPrefix(err.Error(), "image "+ref+": ") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %+v, %v, want %q", ref, img, err, says)
		}
		left, err := os.ReadDir(filepath.Join(dir, "sha256"))
		if err != nil || len(left) > 0 {
			t.Errorf("%s: %v is left (%v)", ref, left, err)
		}
	}
}

// TestCredentials has a registry ask who is there: the supervisor's keychain
// answers it, and nobody else gets to hear it.
func TestCredentials(t *testing.T) {
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	reg := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, key, _ := r.BasicAuth(); user != "berth" || key != "registry-key" {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		inner.ServeHTTP(w, r)
	}))
	defer reg.Close()
	ref := strings.TrimPrefix(reg.URL, "http://") + "/sample:v1"
	basic := &authn.Basic{Username: "berth", Password: "registry-key"}
	if err := remote.Write(reference(t, ref), sample(t), remote.WithAuth(basic)); err != nil {
		t.Fatal(err)
	}
	s := open(t, nil)
	if _, err := s.Get(t.Context(), ref); err == nil || !strings.Contains(err.Error(), "docker login") {
		t.Errorf("without a key: %v", err)
	}
	dir := t.TempDir()
	config := fmt.Sprintf(`{"auths":{%q:{"username":"berth","password":"registry-key"}}}`, strings.TrimPrefix(reg.URL, "http://"))
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("DOCKER_CONFIG", dir)
	s = open(t, func(c *images.Config) { c.Keychain = nil })
	img := get(t, s, ref)
	if shape(t, img.Root) != sampleRoot {
		t.Error(shape(t, img.Root))
	}
	if s := fmt.Sprintf("%+v", img); strings.Contains(s, "registry-key") {
		t.Error(s)
	}
}

// pausing is a context that tells each time that its end is waited for.
type pausing struct {
	context.Context
	paused chan<- struct{}
}

func (p pausing) Done() <-chan struct{} {
	select {
	case p.paused <- struct{}{}:
	default:
	}
	return p.Context.Done()
}

// TestUnpackedByAnother waits for nobody's lock once the image is there: who
// unpacked it keeps the lock, shared.
func TestUnpackedByAnother(t *testing.T) {
	ref := writeLayout(t, map[string]v1.Image{"": imagetest.Image(t, nil, imagetest.Layer(t, file{Name: "f", Body: "x"}))})
	elsewhere := get(t, open(t, nil), ref)
	name := strings.TrimPrefix(elsewhere.Digest, "sha256:")
	dir := filepath.Join(t.TempDir(), "images")
	s := open(t, func(c *images.Config) { c.Dir = dir })
	lock, err := os.OpenFile(filepath.Join(dir, "locks", name), os.O_RDWR|os.O_CREATE, 0o600)
	if err == nil {
		err = syscall.Flock(int(lock.Fd()), syscall.LOCK_SH)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	got, paused := make(chan error, 1), make(chan struct{}, 1)
	go func() {
		_, err := s.Get(pausing{t.Context(), paused}, ref)
		got <- err
	}()
	select {
	case err := <-got:
		t.Fatalf("it was unpacked under another's lock: %v", err)
	case <-paused: // it has seen that the image is missing
	}
	if err := os.Rename(filepath.Dir(elsewhere.Root), filepath.Join(dir, "sha256", name)); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-got:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Error("it waits for the lock of an image that is there")
	}
}

// TestUnpackedOnce has goroutines and processes ask for one image at once.
func TestUnpackedOnce(t *testing.T) {
	if ref := os.Getenv("BERTH_TEST_IMAGE"); ref != "" {
		s, err := images.Open(images.Config{Dir: os.Getenv("BERTH_TEST_STORE")})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Println("root", get(t, s, ref).Root)
		return
	}
	body := strings.Repeat("x", 1000)
	var files []file
	for i := range 300 {
		files = append(files, file{Name: fmt.Sprintf("d/%d", i), Body: body})
	}
	ref := writeLayout(t, map[string]v1.Image{"": imagetest.Image(t, nil, imagetest.Layer(t, files...))})
	dir := filepath.Join(t.TempDir(), "images")
	s := open(t, func(c *images.Config) { c.Dir = dir })
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			cmd := exec.Command("/proc/self/exe", "-test.run=^TestUnpackedOnce$", "-test.v")
			cmd.Env = append(os.Environ(), "BERTH_TEST_IMAGE="+ref, "BERTH_TEST_STORE="+dir)
			if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "root "+dir) {
				t.Errorf("%v\n%s", err, out)
			}
		})
		all.Go(func() {
			img, err := s.Get(t.Context(), ref)
			if err != nil {
				t.Error(err)
				return
			}
			if n := len(strings.Split(shape(t, img.Root), "\n")); n != 301 {
				t.Errorf("%d files", n)
			}
		})
	}
	all.Wait()
	before, err := os.Stat(filepath.Join(get(t, s, ref).Root, "d"))
	if err != nil {
		t.Fatal(err)
	}
	left, _ := os.ReadDir(filepath.Join(dir, "sha256"))
	after, err := os.Stat(filepath.Join(get(t, open(t, func(c *images.Config) { c.Dir = dir }), ref).Root, "d"))
	if err != nil || !os.SameFile(before, after) || len(left) != 1 {
		t.Errorf("it was unpacked again: %v %v", left, err)
	}
}

func TestCollect(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "images")
	s := open(t, func(c *images.Config) { c.Dir = dir })
	ref := writeLayout(t, map[string]v1.Image{"": sample(t)})
	img := get(t, s, ref)
	other := open(t, func(c *images.Config) { c.Dir = dir })
	collect := func(age time.Duration, keep func(string) bool) int {
		t.Helper()
		removed, err := other.Collect(age, keep)
		if err != nil {
			t.Fatal(err)
		}
		_, err = os.Stat(img.Root)
		gone := slices.Contains(removed, img.Digest)
		if (err == nil) == gone {
			t.Errorf("removed %v, and there: %v", removed, err)
		}
		return len(removed)
	}
	if collect(0, nil) != 0 {
		t.Error("an image that a process holds is gone")
	}
	s.Close()
	if collect(time.Hour, nil) != 0 {
		t.Error("a young image is gone")
	}
	if collect(0, func(d string) bool { return d == img.Digest }) != 0 {
		t.Error("an image that is kept is gone")
	}
	for _, name := range []string{".unpack-1", ".gone-2", ".parts-3"} {
		path := filepath.Join(dir, "sha256", name)
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		long := time.Now().Add(-48 * time.Hour)
		if err := os.Chtimes(path, long, long); err != nil {
			t.Fatal(err)
		}
	}
	if collect(0, nil) != 4 {
		t.Error("an image that nobody wants stays, or what broken ones left")
	}
	if left, _ := os.ReadDir(filepath.Join(dir, "sha256")); len(left) > 0 {
		t.Errorf("%v is left", left)
	}
	if again := get(t, s, ref); shape(t, again.Root) != sampleRoot {
		t.Error("it did not come again")
	}
}

// TestArchiveReadOnce asks again for what an archive holds: it is read anew
// when it has changed, or when the image is gone, and not otherwise.
func TestArchiveReadOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "images")
	archive := filepath.Join(t.TempDir(), "image.tar")
	write := func(img v1.Image) {
		t.Helper()
		if err := tarball.WriteToFile(archive, reference(t, "test.example/sample:v1"), img); err != nil {
			t.Fatal(err)
		}
	}
	read := 0
	s := open(t, func(c *images.Config) {
		c.Dir = dir
		c.Log = slog.New(slog.NewTextHandler(lines(func(s string) { read += strings.Count(s, "reading an image's archive") }), nil))
	})
	want := func(n int, digest string) sandbox.Image {
		t.Helper()
		img := get(t, s, archive)
		if _, err := os.Stat(img.Root); err != nil || read != n || digest != "" && img.Digest != digest || len(img.Env) == 0 {
			t.Errorf("read %d times, want %d: %+v %v", read, n, img, err)
		}
		return img
	}
	write(sample(t))
	first := want(1, "")
	want(1, first.Digest)
	write(imagetest.Image(t, []string{"B=2"}, imagetest.Layer(t, file{Name: "other"})))
	if second := want(2, ""); second.Digest == first.Digest || !slices.Equal(second.Env, []string{"B=2"}) {
		t.Errorf("the image before it: %+v", second)
	}
	s.Close()
	if _, err := s.Collect(0, nil); err != nil {
		t.Fatal(err)
	}
	want(3, "")
}

type lines func(string)

func (l lines) Write(p []byte) (int, error) { l(string(p)); return len(p), nil }

// TestInterrupted ends an unpacking in the middle: nothing has its name.
func TestInterrupted(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "images")
	s := open(t, func(c *images.Config) { c.Dir = dir })
	ref := writeLayout(t, map[string]v1.Image{"": sample(t)})
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	cancel(why)
	if _, err := s.Get(ctx, ref); !errors.Is(err, why) {
		t.Errorf("%v", err)
	}
	if left, _ := os.ReadDir(filepath.Join(dir, "sha256")); len(left) > 0 {
		t.Errorf("%v is left", left)
	}
}
