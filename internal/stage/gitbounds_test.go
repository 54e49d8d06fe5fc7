package stage

import (
	"bytes"
	"compress/zlib"
	"crypto/sha1"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/berthdev/berth/api"
)

// packServer is a git server that answers every fetch with the same pack.
func packServer(t *testing.T, pack func(io.Writer)) (url, ca string) {
	line := func(w io.Writer, text string) { fmt.Fprintf(w, "%04x%s", len(text)+4, text) }
	return site(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			w.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
			line(w, "# service=git-upload-pack\n")
			io.WriteString(w, "0000")
			for _, l := range []string{"version 2\n", "fetch=shallow\n", "object-format=sha1\n"} {
				line(w, l)
			}
			io.WriteString(w, "0000")
			return
		}
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "application/x-git-upload-pack-result")
		if bytes.Contains(body, []byte("command=ls-refs")) {
			io.WriteString(w, "0000")
			return
		}
		line(w, "shallow-info\n")
		line(w, "shallow "+commit+"\n")
		io.WriteString(w, "0001")
		line(w, "packfile\n")
		pack(band{w})
		io.WriteString(w, "0000")
	}))
}

// band is the data of a fetch.
type band struct{ w io.Writer }

func (b band) Write(p []byte) (int, error) {
	for n := 0; n < len(p); n += 60000 {
		part := p[n:min(n+60000, len(p))]
		if _, err := fmt.Fprintf(b.w, "%04x\x01%s", len(part)+5, part); err != nil {
			return n, err
		}
	}
	return len(p), nil
}

// burst is a pack of 16 KB with objects of `each` 16 MiB copied `times` over.
func burst(each, times int) []byte {
	head := func(kind, size int) (b []byte) {
		c := kind<<4 | size&15
		for size >>= 4; size > 0; size >>= 7 {
			b = append(b, byte(c|0x80))
			c = size & 0x7f
		}
		return append(b, byte(c))
	}
	squeezed := func(p []byte) []byte {
		var b bytes.Buffer
		z := zlib.NewWriter(&b)
		z.Write(p)
		z.Close()
		return b.Bytes()
	}
	const size = 1<<24 - 1
	pack := binary.BigEndian.AppendUint32([]byte("PACK\x00\x00\x00\x02"), uint32(1+each))
	first := len(pack)
	pack = append(append(pack, head(3, size)...), squeezed(make([]byte, size))...)
	for i := range each {
		delta := binary.AppendUvarint(binary.AppendUvarint(nil, size), uint64(size*times+1))
		delta = append(append(delta, bytes.Repeat([]byte("\xf0\xff\xff\xff"), times)...), 1, byte(i))
		back := len(pack) - first
		offset := []byte{byte(back & 0x7f)}
		for back >>= 7; back > 0; back >>= 7 {
			back--
			offset = append([]byte{byte(0x80 | back&0x7f)}, offset...)
		}
		pack = append(append(append(pack, head(6, len(delta))...), offset...), squeezed(delta)...)
	}
	sum := sha1.Sum(pack)
	return append(pack, sum[:]...)
}

// TestBurstingRepository has repositories that are small on the wire and want
// everything of the machine.
func TestBurstingRepository(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("by design: processes have these bounds on Linux")
	}
	if _, err := Git(t.Context()); err != nil {
		t.Skip(err)
	}
	for name, c := range map[string]struct {
		pack  func(io.Writer)
		set   func(*Stager)
		words string
	}{
		"memory": {func(w io.Writer) { w.Write(burst(1, 100)) }, func(*Stager) {}, "more memory than git is given"},
		"time":   {func(w io.Writer) { w.Write(burst(200, 10)) }, func(s *Stager) { s.bounds.time = time.Second }, "in 1s of a processor's time"},
		"disk": {func(w io.Writer) {
			io.WriteString(w, "PACK\x00\x00\x00\x02\x00\x00\x00\x01\xbf\xff\xff\xff\x0f")
			z, _ := zlib.NewWriterLevel(w, zlib.NoCompression)
			for _, err := z.Write(make([]byte, 1<<16)); err == nil; _, err = z.Write(make([]byte, 1<<16)) {
			}
		}, func(s *Stager) { s.cfg.MaxBytes = 10 << 20 }, "--input-bytes"},
		"heap": {func(w io.Writer) { io.WriteString(w, "PACK\x00\x00\x00\x02\x10\x00\x00\x00") }, func(*Stager) {}, "more memory than git is given"},
	} {
		t.Run(name, func(t *testing.T) {
			url, ca := packServer(t, c.pack)
			w := newWorld(t)
			dir := gitDir(t)
			s, err := New(Config{Private: true, CA: ca, Dir: dir})
			must(t, err)
			c.set(s)
			w.failsWith(s, api.Metadata{"git": url + "/repo.git#commit=" + commit}, false, c.words)
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v %v", left, err)
			}
		})
	}
}

// TestOldGit has a host whose git cannot be held to an address.
func TestOldGit(t *testing.T) {
	bin := t.TempDir()
	t.Setenv("PATH", bin)
	w := newWorld(t)
	in := api.Metadata{"git": "https://example.com/repo.git#commit=" + commit}
	w.fails(Config{}, in, false, "no git; install git 2.37 or newer")
	for version, words := range map[string]string{
		"git version 2.36.9":              `"2.36.9", which cannot be held to the address that was checked; install git 2.37 or newer`,
		"git version 1.99.0.windows.1":    `"1.99.0.windows.1"`,
		"git version x":                   `"x"`,
		"nothing":                         "does not tell its version",
		"git version 2.37.0 (Apple 1)":    "",
		"git version 2.100":               "",
		"git version 3.0.0-rc1":           "",
		"git version " + long + " (more)": "install git",
	} {
		must(t, os.WriteFile(filepath.Join(bin, "git"), []byte("#!/bin/sh\necho "+"'"+version+"'\n"), 0o755))
		if words != "" {
			w.fails(Config{}, in, false, words)
		}
		if _, err := Git(t.Context()); (err != nil) != (words != "") {
			t.Errorf("%s: %v", version, err)
		}
	}
}

var long = strings.Repeat("x", 1000)

// TestGitLeavesNothing has a git that leaves a process behind, and links where
// its files should be.
func TestGitLeavesNothing(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("by design: groups of processes are ended on Linux")
	}
	bin := t.TempDir()
	must(t, os.Chmod(filepath.Dir(bin), 0o755)) // git is nobody
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	secret := filepath.Join(t.TempDir(), "secret")
	must(t, os.WriteFile(secret, []byte("s3cr3t"), 0o600))
	left := filepath.Join(bin, "left")
	must(t, syscall.Mkfifo(left, 0o666))
	must(t, os.Chmod(left, 0o666))
	held, err := os.OpenFile(left, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	must(t, err)
	defer held.Close()
	must(t, os.WriteFile(filepath.Join(bin, "git"), []byte(`#!/bin/sh
case "$*" in
version) echo git version 2.99.0 ;;
*cat-file\ -t*) echo commit ;;
*read-tree*) mkdir -p $GIT_DIR/objects; ln -s `+filepath.Dir(secret)+` $GIT_DIR/objects/dir; ln -s `+secret+` $GIT_DIR/index; exec 3>`+left+`; echo up >&3; sleep 300 >/dev/null 2>&1 & ;;
esac
`), 0o755))
	w := newWorld(t)
	must(t, w.stage(Config{Private: true}, api.Metadata{"git": "https://localhost/repo.git#commit=" + commit}))
	must(t, filepath.WalkDir(w.dir, func(name string, e fs.DirEntry, err error) error {
		if b, _ := os.ReadFile(name); bytes.Contains(b, []byte("s3cr3t")) {
			t.Errorf("%s is a file of the host", name)
		}
		return err
	}))
	must(t, held.SetReadDeadline(time.Now().Add(time.Minute)))
	if said, err := io.ReadAll(held); err != nil || string(said) != "up\n" { // until nobody holds the other end
		t.Errorf("what git left said %q and is there still: %v", said, err)
	}
}

// TestGitEndsInTheMiddle has a git that ends before it has said all: what it
// had said is not the repository.
func TestGitEndsInTheMiddle(t *testing.T) {
	bin := t.TempDir()
	must(t, os.Chmod(filepath.Dir(bin), 0o755)) // git is nobody
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	two := "printf '100644 blob %s\\t%s\\0' " + commit + " a " + commit + " b"
	const one = `read -r id; printf '%s blob 1\nx\n%s blob 9\nx' "$id" "$id"`
	const oom = "echo 'fatal: Out of memory, malloc failed (tried to allocate 9 bytes)' >&2; exit 128"
	for name, c := range map[string]struct {
		list, cat string
		passing   bool
		words     string
	}{
		"list":             {two + "; exit 128", "", true, "git ls-tree failed"},
		"list, killed":     {two + "; kill -9 $$", "", true, "git ls-tree failed"},
		"list, in a name":  {"printf '100644 bl'", "", true, "git ended early"},
		"list, out of it":  {two + "; " + oom, "", false, "more memory than git is given"},
		"files":            {two, one + "; exit 128", true, "git cat-file failed"},
		"files, well":      {two, one, true, "git ended early"},
		"files, out of it": {two, one + "; " + oom, false, "more memory than git is given"},
	} {
		t.Run(name, func(t *testing.T) {
			must(t, os.WriteFile(filepath.Join(bin, "git"), []byte(`#!/bin/sh
case "$*" in
version) echo git version 2.99.0 ;;
*cat-file\ -t*) echo commit ;;
*ls-tree*) `+c.list+` ;;
*cat-file*) `+c.cat+` ;;
esac
`), 0o755))
			newWorld(t).fails(Config{Private: true}, api.Metadata{"git": "https://localhost/repo.git#commit=" + commit}, c.passing, c.words)
		})
	}
}
