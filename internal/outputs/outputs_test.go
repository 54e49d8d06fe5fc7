package outputs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/berthdev/berth/internal/sandbox/tree"
	"github.com/berthdev/berth/toolset"
)

// world is a session's tree and the directory its outputs are kept in.
type world struct {
	testing.TB
	files   toolset.Files
	dir, to string // the outputs on the host, and where they are kept
}

func newWorld(t testing.TB) *world {
	root := t.TempDir()
	files, err := tree.Open(tree.Config{Root: root, UID: -1, GID: -1})
	must(t, err)
	t.Cleanup(func() { files.Close() })
	w := &world{TB: t, files: files, dir: filepath.Join(root, Dir), to: filepath.Join(t.TempDir(), "kept", "sesn_1")}
	must(t, os.Mkdir(w.dir, 0o755))
	return w
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) put(name, text string, mode fs.FileMode) string {
	w.Helper()
	path := filepath.Join(w.dir, name)
	must(w, os.MkdirAll(filepath.Dir(path), 0o755))
	must(w, os.WriteFile(path, []byte(text), 0o600))
	must(w, os.Chmod(path, mode))
	return path
}

func (w *world) collect(l Limits) Manifest {
	w.Helper()
	m, err := Collect(w.Context(), w.files, "sesn_1", w.to, l)
	must(w, err)
	if onDisk, err := Read(w.to); err == nil && len(onDisk.Files) != len(m.Files) {
		w.Errorf("the manifest on disk has %d files, not %d", len(onDisk.Files), len(m.Files))
	}
	for _, f := range m.Files {
		b, err := os.ReadFile(filepath.Join(w.to, filesName, string(f.Path)))
		must(w, err)
		if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != f.SHA256 || int64(len(b)) != f.Size {
			w.Errorf("%q is not what the manifest says", f.Path)
		}
	}
	if rest, _ := filepath.Glob(filepath.Join(filepath.Dir(w.to), ".*")); len(rest) > 0 {
		w.Errorf("left behind: %v", rest)
	}
	return m
}

func (m Manifest) names() string {
	var all []string
	for _, f := range m.Files {
		all = append(all, string(f.Path))
	}
	return strings.Join(all, " ")
}

func (m Manifest) left() string {
	var all []string
	for _, l := range m.LeftOut {
		all = append(all, fmt.Sprintf("%q: %s", l.Path, l.Reason))
	}
	return strings.Join(all, "\n")
}

// TestLost has outputs that never came to the tree.
func TestLost(t *testing.T) {
	w := newWorld(t)
	lost := LeftOut{Path: ".", Reason: "the far side does not answer"}
	for _, step := range []struct{ write, files, left string }{
		{"", "", `".": the far side does not answer`},
		{"a", "a", `".": the far side does not answer`},
	} {
		if step.write != "" {
			w.put(step.write, "x", 0o644)
		}
		m, err := Collect(t.Context(), w.files, "s", w.to, Limits{}, lost)
		if err != nil || m.names() != step.files || m.left() != step.left {
			t.Errorf("%q, left %q, %v", m.names(), m.left(), err)
		}
	}
	must(t, os.RemoveAll(filepath.Join(w.dir, "a")))
	if m, err := Collect(t.Context(), w.files, "s", w.to, Limits{}, lost); err != nil || m.names() != "a" {
		t.Errorf("what was kept is replaced by nothing: %q %v", m.names(), err)
	}
}

func TestManifestSaysWhatAFileIs(t *testing.T) {
	w := newWorld(t)
	if m := w.collect(Limits{}); m.Files != nil {
		t.Errorf("of nothing: %+v", m)
	}
	if _, err := os.Stat(w.to); !errors.Is(err, fs.ErrNotExist) {
		t.Error("nothing was kept, and still there is something")
	}
	when := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	must(t, os.Chtimes(w.put("sub/run.sh", "echo hi\n", 0o4755), when, when))
	w.put("empty", "", 0o644)
	m := w.collect(Limits{})
	if m.names() != "empty sub/run.sh" || m.Bytes != 8 || m.Session != "sesn_1" {
		t.Fatalf("kept %+v", m)
	}
	if f := m.Files[1]; f.Mode != 0o755 || !f.Modified.Equal(when) || f.Size != 8 {
		t.Errorf("of sub/run.sh it says %+v", f)
	}
}

func TestHostileOutputs(t *testing.T) {
	w := newWorld(t)
	w.put("good", "good", 0o644)
	w.put("a\x1b[2Jb\nc", "escape", 0o644)
	w.put("latin\xe9", "not UTF-8", 0o644)
	w.put("base64:eA==", "looks escaped", 0o644)
	must(t, os.Truncate(w.put("holes", "x", 0o644), 1<<43))
	must(t, syscall.Mkfifo(filepath.Join(w.dir, "pipe"), 0o644))
	must(t, os.Symlink("/etc/passwd", filepath.Join(w.dir, "link")))
	must(t, os.Symlink("/etc", filepath.Join(w.dir, "linked")))
	m := w.collect(Limits{})
	if len(m.Files) != 4 || len(m.LeftOut) != 4 {
		t.Errorf("kept %q, left out\n%s", m.names(), m.left())
	}
	for _, part := range []string{`"holes": its 8796093022208 bytes`, `"link": it is a symbolic link`, `"linked": it is a symbolic link`, `"pipe": it is no regular file`} {
		if !strings.Contains(m.left(), part) {
			t.Errorf("not said: %s\n%s", part, m.left())
		}
	}
	raw, err := os.ReadFile(filepath.Join(w.to, manifestName))
	must(t, err)
	if bytes.ContainsAny(raw, "\x1b\xe9") {
		t.Error("the manifest holds a name as it is")
	}
	read, err := Parse(raw)
	must(t, err)
	if read.names() != m.names() {
		t.Errorf("read back as %q", read.names())
	}
}

// TestOutputsLinkedElsewhere: the directory itself may be made a link, to a
// place inside or outside.
func TestOutputsLinkedElsewhere(t *testing.T) {
	for _, target := range []string{"/etc", "/tmp", "../../../../../etc"} {
		w := newWorld(t)
		must(t, os.Remove(w.dir))
		must(t, os.Symlink(target, w.dir))
		if m, err := Collect(t.Context(), w.files, "s", w.to, Limits{}); len(m.Files) > 0 {
			t.Errorf("a link to %s gave %q, %v", target, m.names(), err)
		}
	}
}

func TestOutputsAreBounded(t *testing.T) {
	w := newWorld(t)
	for i := range 20 {
		w.put(fmt.Sprintf("f%02d", i), "12345", 0o644)
	}
	if m := w.collect(Limits{Files: 7}); len(m.Files) != 7 || len(m.LeftOut) != 13 {
		t.Errorf("kept %d, left out %d", len(m.Files), len(m.LeftOut))
	}
	if m := w.collect(Limits{Bytes: 23}); m.Bytes != 20 || len(m.LeftOut) != 16 {
		t.Errorf("kept %d bytes, left out %d", m.Bytes, len(m.LeftOut))
	}
	for i := range 2000 {
		must(t, os.Symlink("x", filepath.Join(w.dir, fmt.Sprintf("l%04d", i))))
	}
	if m := w.collect(Limits{}); len(m.LeftOut) != maxLeftOut || m.More != 1000 {
		t.Errorf("named %d, counted %d", len(m.LeftOut), m.More)
	}
}

func TestSparseFileStaysSparse(t *testing.T) {
	w := newWorld(t)
	path := w.put("disk.img", "begin", 0o644)
	must(t, os.Truncate(path, 64<<20))
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteAt([]byte("middle"), 32<<20)
	must(t, errors.Join(err, f.Close()))
	w.collect(Limits{})
	info, err := os.Stat(filepath.Join(w.to, filesName, "disk.img"))
	must(t, err)
	if st := info.Sys().(*syscall.Stat_t); st.Size != 64<<20 || st.Blocks*512 > 1<<20 {
		t.Errorf("%d bytes on %d blocks", st.Size, st.Blocks)
	}
}

func TestCollectAgain(t *testing.T) {
	w := newWorld(t)
	w.put("same", "same", 0o644)
	w.put("other", "before", 0o644)
	w.collect(Limits{})
	now = func() time.Time { return time.Now().Add(time.Hour) } // the last changes are long ago
	t.Cleanup(func() { now = time.Now })
	w.collect(Limits{})
	inode := func(name string) uint64 {
		info, err := os.Stat(filepath.Join(w.to, filesName, name))
		must(t, err)
		return info.Sys().(*syscall.Stat_t).Ino
	}
	same, other := inode("same"), inode("other")
	w.put("other", "after!", 0o644)
	w.put("new", "new", 0o644)
	if m := w.collect(Limits{}); m.names() != "new other same" {
		t.Fatalf("kept %q", m.names())
	}
	if inode("same") != same {
		t.Error("an unchanged file was copied again")
	}
	if inode("other") == other {
		t.Error("a changed file was not copied again")
	}
	must(t, os.RemoveAll(w.dir))
	if m := w.collect(Limits{}); m.names() != "new other same" {
		t.Errorf("a tree that is gone took the outputs with it: %q", m.names())
	}
}

// TestWhatCannotBeWrittenKeepsTheOld: a collection that fails leaves the last
// one as it was.
func TestWhatCannotBeWrittenKeepsTheOld(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to mount a small disk")
	}
	w := newWorld(t)
	must(t, os.MkdirAll(filepath.Dir(w.to), 0o700))
	must(t, syscall.Mount("none", filepath.Dir(w.to), "tmpfs", 0, "size=1m"))
	t.Cleanup(func() { syscall.Unmount(filepath.Dir(w.to), syscall.MNT_DETACH) })
	w.put("small", "kept", 0o644)
	w.collect(Limits{})
	w.put("big", strings.Repeat("x", 2<<20), 0o644)
	if _, err := Collect(t.Context(), w.files, "s", w.to, Limits{}); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("a full disk gave %v", err)
	}
	m, err := Read(w.to)
	must(t, err)
	if m.names() != "small" {
		t.Errorf("what was kept is now %q", m.names())
	}
	if rest, _ := os.ReadDir(filepath.Dir(w.to)); len(rest) != 1 {
		t.Errorf("left behind: %v", rest)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"session":"s","files":[{"path":"a/b","size":1,"sha256":"` + strings.Repeat("0", 64) + `","mode":420,"mtime":"2026-01-01T00:00:00Z"}]}`))
	f.Add([]byte(`{"files":[{"path":"../x","sha256":"` + strings.Repeat("0", 64) + `"}]}`))
	f.Add([]byte(`{"files":[{"path":"base64:Ly4uL3g=","sha256":"` + strings.Repeat("0", 64) + `"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Parse(b)
		if err != nil {
			return
		}
		for _, file := range m.Files {
			if p := string(file.Path); !filepath.IsLocal(p) || filepath.Join("/x", p) != "/x/"+p {
				t.Errorf("let %q pass", p)
			}
		}
		again, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		back, err := Parse(again)
		if err != nil || back.names() != m.names() {
			t.Errorf("%s became %v, %v", again, back, err)
		}
	})
}

// The bar: within 1.5 times cp -r.
func BenchmarkCollect10000Files(b *testing.B) {
	w := newWorld(b)
	for i := range 10_000 {
		w.put(fmt.Sprintf("d%02d/f%d", i%100, i), strings.Repeat("some words of a result\n", 40), 0o644)
	}
	b.Run("berth", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			if m, err := Collect(b.Context(), w.files, "s", fmt.Sprint(w.to, i), Limits{}); err != nil || len(m.Files) != 10_000 {
				b.Fatal(len(m.Files), err)
			}
		}
	})
	b.Run("cp", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			if out, err := exec.Command("cp", "-r", w.dir, fmt.Sprint(w.to, "cp", i)).CombinedOutput(); err != nil {
				b.Fatalf("%s", out)
			}
		}
	})
}

// TestLongNames: a path that is good in the session and too long where it is to
// be kept costs that one file.
func TestLongNames(t *testing.T) {
	w := newWorld(t)
	w.put("good", "good", 0o644)
	root, err := os.OpenRoot(w.dir)
	must(t, err)
	defer root.Close()
	const step = 200
	dir, room := "", 4095-len(filepath.Join(filepath.Dir(w.to), ".sesn_1-1234567890", filesName))
	for len(dir)+step+1 < room-10 {
		dir = filepath.Join(dir, strings.Repeat("d", step))
	}
	must(t, root.MkdirAll(dir, 0o755))
	for n := 1; n <= 255; n += 2 { // the shortest fit, the longest do not
		must(t, root.WriteFile(filepath.Join(dir, strings.Repeat("f", n)), nil, 0o644))
	}
	m, err := Collect(t.Context(), w.files, "sesn_1", w.to, Limits{})
	if err != nil || len(m.Files) == 0 || m.Files[len(m.Files)-1].Path != "good" || len(m.LeftOut) == 0 {
		t.Errorf("kept %d, left out %d: %v", len(m.Files), len(m.LeftOut), err)
	}
}

// TestNamesAreBounded: as many files as there may be, with the longest names,
// make no manifest that nobody can read.
func TestNamesAreBounded(t *testing.T) {
	w := newWorld(t)
	files := manyNames{w.files, strings.Repeat(strings.Repeat("\x01", 254)+"/", 15)}
	m, err := Collect(t.Context(), files, "sesn_1", w.to, Limits{})
	must(t, err)
	if info, err := os.Stat(filepath.Join(w.to, manifestName)); err != nil || len(m.Files) < 1000 || len(m.LeftOut) == 0 || info.Size() > maxManifest {
		t.Errorf("%d files, %d left out, the manifest: %+v %v", len(m.Files), len(m.LeftOut)+m.More, info, err)
	}
}

// manyNames is a session's files of which a walk finds 100,000, all the same.
type manyNames struct {
	toolset.Files
	below string
}

type manyEntry struct {
	fs.DirEntry
	toolset.Files
}

func (f manyNames) Walk(_ context.Context, _ string, fn func(string, toolset.Entry) error) error {
	if err := f.WriteFile(Dir+"/x", nil); err != nil {
		return err
	}
	info, err := f.Stat(Dir + "/x")
	if err != nil {
		return err
	}
	for i := range 100_000 {
		if err := fn(fmt.Sprintf("%s/%s%d", Dir, f.below, i), manyEntry{fs.FileInfoToDirEntry(info), f.Files}); err != nil {
			if err == fs.SkipAll {
				err = nil
			}
			return err
		}
	}
	return nil
}

func (e manyEntry) Open() (toolset.File, error) { return e.Files.Open(Dir + "/x") }

// TestDeepOutputs are replaced with few descriptors: the other sessions need
// some.
func TestDeepOutputs(t *testing.T) {
	w := newWorld(t)
	path := w.put(strings.Repeat("d/", 900)+"f", "one", 0o644)
	w.collect(Limits{})
	must(t, os.WriteFile(path, []byte("two, longer"), 0o644))
	var was syscall.Rlimit
	must(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &was))
	few := was
	few.Cur = 300
	must(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &few))
	_, err := Collect(t.Context(), w.files, "sesn_1", w.to, Limits{})
	must(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &was))
	must(t, err)
}
