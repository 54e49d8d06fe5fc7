package stage

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/sandbox/sandboxtest"
	"github.com/berthdev/berth/internal/sandbox/tree"
)

func TestMain(m *testing.M) {
	// The SDK of AWS finds its settings in the environment; none of the
	// machine's may come in.
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "AWS_") {
			os.Unsetenv(name)
		}
	}
	os.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	os.Exit(m.Run())
}

// world is a session's tree and a stager for it.
type world struct {
	*testing.T
	files *tree.Tree
	dir   string // the working directory on the host
	log   bytes.Buffer
}

func newWorld(t *testing.T) *world {
	root := t.TempDir()
	files, err := tree.Open(tree.Config{Root: root, UID: -1, GID: -1})
	must(t, err)
	t.Cleanup(func() { files.Close() })
	return &world{T: t, files: files, dir: filepath.Join(root, "workspace")}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) stage(c Config, m api.Metadata) error {
	w.Helper()
	c.Log = slog.New(slog.NewTextHandler(&w.log, nil))
	s, err := New(c)
	must(w, err)
	return w.with(s, m)
}

func (w *world) with(s *Stager, m api.Metadata) error {
	w.Helper()
	inputs, err := Parse(m)
	must(w, err)
	d, err := w.files.Draft("/workspace")
	must(w, err)
	return s.Stage(w.Context(), inputs, d)
}

// fails wants a failure with these words, that passes or not, and nothing of
// it in the working directory.
func (w *world) fails(c Config, m api.Metadata, passing bool, words string) {
	w.Helper()
	c.Log = slog.New(slog.NewTextHandler(&w.log, nil))
	s, err := New(c)
	must(w, err)
	w.failsWith(s, m, passing, words)
}

func (w *world) failsWith(s *Stager, m api.Metadata, passing bool, words string) {
	w.Helper()
	err := w.with(s, m)
	e, ok := errors.AsType[*Error](err)
	if !ok || !strings.Contains(e.Error(), words) || e.Passing != passing {
		w.Errorf("got %v (%+v), want %q, passing %v", err, e, words, passing)
	}
	if left, _ := os.ReadDir(w.dir); len(left) != 0 {
		w.Errorf("staged in part: %v", left)
	}
	w.secret(fmt.Sprint(err))
}

func (w *world) secret(text string) {
	w.Helper()
	if all := text + w.log.String(); strings.Contains(all, "s3cr3t") {
		w.Errorf("a credential shows: %s", all)
	}
}

func (w *world) has(name, want string) {
	w.Helper()
	if b, err := os.ReadFile(filepath.Join(w.dir, name)); string(b) != want {
		w.Errorf("%s is %.80q, %v; want %.80q", name, b, err, want)
	}
}

func sum(text string) string {
	s := sha256.Sum256([]byte(text))
	return hex.EncodeToString(s[:])
}

func TestFiles(t *testing.T) {
	root, beside := t.TempDir(), t.TempDir()
	must(t, os.WriteFile(filepath.Join(root, "a.csv"), []byte("a,b\n"), 0o600))
	must(t, os.WriteFile(filepath.Join(root, "run.sh"), []byte("#!/bin/sh\n"), 0o700))
	must(t, os.WriteFile(filepath.Join(beside, "other"), []byte("x"), 0o600))
	must(t, os.Symlink("a.csv", filepath.Join(root, "inside")))
	must(t, os.Symlink(filepath.Join(beside, "other"), filepath.Join(root, "out")))
	must(t, os.Symlink(beside, filepath.Join(root, "outdir")))
	must(t, syscall.Mkfifo(filepath.Join(root, "fifo"), 0o600))
	c := Config{Roots: []string{t.TempDir(), root}}
	url := func(name string) string { return "file://" + root + "/" + name }

	w := newWorld(t)
	must(t, w.stage(c, api.Metadata{"input_files": url("a.csv") + "#name=data/in.csv&sha256=" + sum("a,b\n") + " " + url("run.sh") + " " + url("inside")}))
	w.has("data/in.csv", "a,b\n")
	w.has("inside", "a,b\n")
	if info, err := os.Stat(filepath.Join(w.dir, "run.sh")); err != nil || info.Mode() != 0o755 {
		t.Errorf("run.sh: %v, %v", info, err)
	}
	if !strings.Contains(w.log.String(), "inputs staged") || !strings.Contains(w.log.String(), "bytes=18") {
		t.Errorf("the log does not tell: %s", w.log.String())
	}
	w = newWorld(t)
	for url, words := range map[string]string{
		url("none"):                        "no such file",
		url("out"):                         "leads out of the input root",
		url("outdir/other"):                "leads out of the input root",
		url("fifo"):                        "no regular file",
		url("."):                           "is not below a directory",
		url("../x"):                        "is not below a directory",
		"file:///etc/passwd":               "is not below a directory that the worker reads inputs from (--input-root)",
		url("a.csv") + "#sha256=" + digest: "its SHA-256 is " + sum("a,b\n") + ", not",
	} {
		name := ""
		if !strings.Contains(url, "#") {
			name = "#name=x"
		}
		w.fails(c, api.Metadata{"input_files": url + name + " " + "file://" + root + "/a.csv#name=good"}, false, words)
	}
	w.fails(Config{}, api.Metadata{"input_file": url("a.csv")}, false, "--input-root")
	w.fails(Config{Roots: c.Roots, MaxBytes: 5}, api.Metadata{"input_files": url("a.csv") + " " + url("inside")}, false, "--input-bytes")
}

// site is an https server on loopback and the file of its authority.
func site(t *testing.T, h http.Handler) (url, ca string) {
	s := httptest.NewTLSServer(h)
	t.Cleanup(s.Close)
	ca = filepath.Join(t.TempDir(), "ca.pem")
	must(t, os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o644))
	return s.URL, ca
}

func TestWeb(t *testing.T) {
	var flaky atomic.Int32
	mux := http.NewServeMux()
	mux.HandleFunc("/data/a.csv", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "a,b\n") })
	mux.HandleFunc("/moved", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/data/a.csv", http.StatusFound) })
	mux.HandleFunc("/plain", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://127.0.0.1:1/s3cr3t", http.StatusFound)
	})
	mux.HandleFunc("/round", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/round", http.StatusFound) })
	mux.HandleFunc("/broken", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		fmt.Fprint(w, "half")
	})
	mux.HandleFunc("/endless", func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 1<<16)); err != nil {
				return
			}
		}
	})
	mux.HandleFunc("/busy", func(w http.ResponseWriter, r *http.Request) {
		if flaky.Add(1) == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		fmt.Fprint(w, "now")
	})
	url, ca := site(t, mux)
	c := Config{Private: true, CA: ca, MaxBytes: 1 << 20}
	w := newWorld(t)
	must(t, w.stage(c, api.Metadata{"input_files": url + "/data/a.csv?sig=s3cr3t " + url + "/moved#sha256=" + sum("a,b\n")}))
	w.has("a.csv", "a,b\n")
	w.has("moved", "a,b\n")
	w.secret("")

	w = newWorld(t)
	for path, words := range map[string]string{
		"/none?sig=s3cr3t":             "the server answered 404",
		"/plain":                       "no plain https: URL",
		"/round":                       "more than 5 times",
		"/endless":                     "--input-bytes",
		"/data/a.csv#sha256=" + digest: "its SHA-256 is",
	} {
		w.fails(c, api.Metadata{"input_file": url + path}, false, words)
	}
	w.fails(c, api.Metadata{"input_file": url + "/broken?sig=s3cr3t"}, true, "broke off")
	w.fails(c, api.Metadata{"input_file": url + "/busy"}, true, "answered 503")
	must(t, w.stage(c, api.Metadata{"input_file": url + "/busy"}))
	w.has("busy", "now")

	w = newWorld(t)
	w.fails(Config{CA: ca}, api.Metadata{"input_file": url + "/data/a.csv"}, false, "of this machine, which the worker does not reach for inputs (--input-private)")
	w.fails(Config{Private: true}, api.Metadata{"input_file": url + "/data/a.csv"}, false, "certificate is not trusted")
	for _, host := range []string{"10.0.0.1", "169.254.169.254", "[::1]", "0x7f.1", "2130706433", "localhost"} {
		w.fails(Config{}, api.Metadata{"input_file": "https://" + host + ":1/x?s=s3cr3t"}, false, "")
	}
}

// TestStalledServer: a server that stops sending is let go.
func TestStalledServer(t *testing.T) {
	url, ca := site(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "some")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}))
	w := newWorld(t)
	s, err := New(Config{Private: true, CA: ca})
	must(t, err)
	s.web.stall = 50 * time.Millisecond
	inputs, err := Parse(api.Metadata{"input_file": url + "/x"})
	must(t, err)
	d, err := w.files.Draft("/workspace")
	must(t, err)
	if e, ok := errors.AsType[*Error](s.Stage(t.Context(), inputs, d)); !ok || !e.Passing || !strings.Contains(e.Reason, "nothing came") {
		t.Errorf("got %v", e)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	d, err = w.files.Draft("/workspace")
	must(t, err)
	if err := s.Stage(ctx, inputs, d); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if left, _ := os.ReadDir(w.dir); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func gitIn(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", append([]string{"-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "protocol.file.allow=always", "-C", dir}, args...)...)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func TestRepository(t *testing.T) {
	backend, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		t.Skip("git is not installed")
	}
	base := t.TempDir()
	src := filepath.Join(base, "src")
	must(t, os.MkdirAll(filepath.Join(src, "sub"), 0o755))
	gitIn(t, src, "init", "-q", "-b", "main")
	write := func(name, text string, mode fs.FileMode) {
		must(t, os.WriteFile(filepath.Join(src, name), []byte(text), mode))
	}
	write("README", "read me\n", 0o644)
	write("sub/run.sh", "echo hi\n", 0o755)
	// Whatever a repository says about filters and exports is not followed.
	write(".gitattributes", "* text eol=crlf filter=evil export-ignore export-subst\n", 0o644)
	write("subst", "$Format:%H$\n", 0o644)
	must(t, os.Symlink("/etc/passwd", filepath.Join(src, "link")))
	gitIn(t, src, "-c", "core.autocrlf=false", "add", "-A")
	gitIn(t, src, "update-index", "--add", "--cacheinfo", "160000,"+commit+",module")
	gitIn(t, src, "commit", "-q", "-m", "one")
	first := gitIn(t, src, "rev-parse", "HEAD")
	write("README", "second\n", 0o644)
	gitIn(t, src, "commit", "-qam", "two")
	bare := filepath.Join(base, "repo.git")
	gitIn(t, base, "clone", "-q", "--bare", src, bare)
	gitIn(t, bare, "config", "uploadpack.allowReachableSHA1InWant", "true")
	url, ca := site(t, &cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(string(backend)), "git-http-backend"), InheritEnv: []string{"PATH"},
		Env: []string{"GIT_PROJECT_ROOT=" + base, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"}, Stderr: &bytes.Buffer{},
	})
	must(t, os.Chmod(base, 0o755))
	c := Config{Private: true, CA: ca, Dir: gitDir(t)}
	w := newWorld(t)
	must(t, w.stage(c, api.Metadata{"git": url + "/repo.git#commit=" + first}))
	w.has("repo/README", "read me\n")
	w.has("repo/subst", "$Format:%H$\n")
	w.has("repo/sub/run.sh", "echo hi\n")
	if info, err := os.Stat(filepath.Join(w.dir, "repo/sub/run.sh")); err != nil || info.Mode() != 0o755 {
		t.Errorf("run.sh: %v, %v", info, err)
	}
	if to, err := os.Readlink(filepath.Join(w.dir, "repo/link")); to != "/etc/passwd" {
		t.Errorf("link: %q, %v", to, err)
	}
	if info, err := os.Stat(filepath.Join(w.dir, "repo/module")); err != nil || !info.IsDir() {
		t.Errorf("module: %v", err)
	}
	repo := filepath.Join(w.dir, "repo")
	if got := gitIn(t, repo, "-c", "core.attributesFile=/dev/null", "log", "--format=%H %s"); got != first+" one" {
		t.Errorf("its log is %q", got)
	}
	gitIn(t, repo, "fsck", "--strict")
	must(t, os.Remove(filepath.Join(repo, ".gitattributes")))
	if got := gitIn(t, repo, "status", "--porcelain"); got != "D .gitattributes" {
		t.Errorf("its status is %q", got)
	}

	w = newWorld(t)
	must(t, w.stage(c, api.Metadata{"git": "git+" + url + "/repo.git#commit=" + first + "&name=."}))
	w.has("README", "read me\n")
	w = newWorld(t)
	w.fails(c, api.Metadata{"git": url + "/repo.git#commit=" + commit}, false, "does not have the commit")
	w.fails(c, api.Metadata{"git": url + "/none.git#commit=" + first}, true, "git fetch failed")
	w.fails(Config{CA: ca}, api.Metadata{"git": url + "/repo.git#commit=" + first}, false, "--input-private")
	w.fails(Config{Private: true, CA: ca, MaxBytes: 20, Dir: c.Dir}, api.Metadata{"git": url + "/repo.git#commit=" + first}, false, "--input-bytes")
	tip := gitIn(t, src, "rev-parse", "HEAD^{tree}")
	w.fails(c, api.Metadata{"git": url + "/repo.git#commit=" + tip}, false, "")
	if left, err := os.ReadDir(c.Dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

// gitDir is a directory for git alone: others of this machine stage
// repositories too.
func gitDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	must(t, os.Chmod(filepath.Dir(dir), 0o755)) // git is nobody
	return dir
}

// TestHostileRepository: names in a commit's tree that git itself would not
// write lead nowhere.
func TestHostileRepository(t *testing.T) {
	for _, name := range []string{"../x", "a/../../x", "/x", ".git/config", "sub/.GIT/hooks/x", ".."} {
		if filepath.IsLocal(name) && !ownedByGit(name) {
			t.Errorf("%q would be written", name)
		}
	}
}

// objectsServer starts a real S3 server.
func objectsServer(t *testing.T) (endpoint, dir string) {
	bin, err := filepath.Abs("../../bin/versitygw")
	must(t, err)
	if _, err := os.Stat(bin); err != nil {
		t.Skip("bin/versitygw is not built; test/setup builds it")
	}
	dir = t.TempDir()
	l, err := net.Listen("tcp", netip.AddrPortFrom(sandboxtest.Loopback(), 0).String())
	must(t, err)
	addr := l.Addr().String()
	must(t, l.Close())
	var out bytes.Buffer
	cmd := exec.Command(bin, "--access", "AKIAs3cr3t", "--secret", "s3cr3tkey", "--port", addr, "posix", "--nometa", dir)
	cmd.Stdout, cmd.Stderr = &out, &out
	must(t, cmd.Start())
	done := make(chan struct{})
	go func() { cmd.Wait(); close(done) }()
	t.Cleanup(func() { cmd.Process.Kill(); <-done })
	for deadline := time.Now().Add(time.Minute); ; {
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			c.Close()
			return "http://" + addr, dir
		}
		select {
		case <-done:
			t.Fatalf("versitygw ended: %s", out.String())
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("versitygw does not listen: %s", out.String())
		}
	}
}

func TestObjects(t *testing.T) {
	endpoint, dir := objectsServer(t)
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIAs3cr3t")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "s3cr3tkey")
	big := strings.Repeat("0123456789abcdef", 1<<16)
	for name, text := range map[string]string{"data/in/a.csv": "a,b\n", "data/in/big": big, "data/other": "x", "private/x": "x"} {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	c := Config{Buckets: []string{"data/in", "none"}, S3Endpoint: endpoint}
	w := newWorld(t)
	must(t, w.stage(c, api.Metadata{"input_files": "s3://data/in/a.csv s3://data/in/big#sha256=" + sum(big)}))
	w.has("a.csv", "a,b\n")
	w.has("big", big)
	w.secret("")

	w = newWorld(t)
	for url, words := range map[string]string{
		"s3://data/in/none":                      "no such object",
		"s3://none/x":                            "no such object",
		"s3://data/other":                        "--input-bucket",
		"s3://data/in/../other":                  "--input-bucket",
		"s3://private/x":                         "--input-bucket",
		"s3://data/in/a.csv#sha256=" + digest:    "its SHA-256 is",
		"s3://data/in/a.csv?X-Amz-Signature=abc": "nothing else",
	} {
		w.fails(c, api.Metadata{"input_file": url}, false, words)
	}
	small := c
	small.MaxBytes = 100
	w.fails(small, api.Metadata{"input_file": "s3://data/in/big"}, false, "--input-bytes")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "not the s3cr3t")
	w.fails(c, api.Metadata{"input_file": "s3://data/in/a.csv"}, false, "does not let the worker read it")
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	t.Setenv("HOME", t.TempDir())
	w.fails(c, api.Metadata{"input_file": "s3://data/in/a.csv"}, true, "no AWS credentials")
}

// TestReserve: a large file has its room before it is written, where the file
// system can give it; none is refused for want of such a file system.
func TestReserve(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	must(t, err)
	defer f.Close()
	must(t, reserve(f, 8<<20))
	var of syscall.Statfs_t
	must(t, syscall.Fstatfs(int(f.Fd()), &of))
	if of.Type != 0xef53 {
		t.Skip("by design: the directory for temporary files is not on ext4")
	}
	info, err := f.Stat()
	must(t, err)
	if st := info.Sys().(*syscall.Stat_t); st.Blocks*512 < 8<<20 {
		t.Errorf("%d blocks are reserved", st.Blocks)
	}
	if err := reserve(f, 1<<42); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("room for 4 TiB: %v", err)
	}
}
