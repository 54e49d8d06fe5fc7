package command_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/sandboxtest"
	"github.com/berthdev/berth/internal/sandbox/tree"
	"github.com/berthdev/berth/internal/stage"
	"github.com/berthdev/berth/toolset"
)

func TestUnshareStaging(t *testing.T) { testStaging(t, newDriver(t, entering(t))) }

// source has what sessions may ask for: files below a root, and an https server
// with a file and a repository.
type source struct {
	root, url, commit string
	big               string // the digest of root/big
	cfg               stage.Config
}

func newSource(t *testing.T) source {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	s := source{root: t.TempDir()}
	text := make([]byte, 5<<20+7)
	rand.NewChaCha8([32]byte{}).Read(text)
	sum := sha256.Sum256(text)
	s.big = hex.EncodeToString(sum[:])
	must(os.WriteFile(filepath.Join(s.root, "big"), text, 0o644))
	must(os.WriteFile(filepath.Join(s.root, "run"), []byte("#!/bin/sh\necho ran\n"), 0o755))
	must(os.WriteFile(filepath.Join(s.root, "empty"), nil, 0o600))

	base := t.TempDir()
	git := func(dir string, args ...string) string {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-c", "user.name=t", "-c", "user.email=t@example.com", "-C", dir}, args...)...)
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	src, bare := filepath.Join(base, "src"), filepath.Join(base, "repo.git")
	must(os.MkdirAll(filepath.Join(src, "sub"), 0o755))
	git(src, "init", "-q", "-b", "main")
	must(os.WriteFile(filepath.Join(src, "sub/run.sh"), []byte("echo hi\n"), 0o755))
	must(os.Symlink("/etc/passwd", filepath.Join(src, "link")))
	git(src, "add", "-A")
	git(src, "commit", "-qm", "one")
	s.commit = git(src, "rev-parse", "HEAD")
	git(base, "clone", "-q", "--bare", src, bare)
	git(bare, "config", "uploadpack.allowAnySHA1InWant", "true")
	where, err := exec.Command("git", "--exec-path").Output()
	must(err)
	mux := http.NewServeMux()
	mux.HandleFunc("/page", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "a page\n") })
	mux.HandleFunc("/short", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "3000000")
		w.Write(make([]byte, 2_500_000))
	})
	mux.Handle("/repo.git/", &cgi.Handler{Path: strings.TrimSpace(string(where)) + "/git-http-backend", Env: []string{"GIT_PROJECT_ROOT=" + base, "GIT_HTTP_EXPORT_ALL=1"}, Stderr: io.Discard})
	server := httptest.NewTLSServer(mux)
	t.Cleanup(server.Close)
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.url = server.URL
	ca := filepath.Join(base, "ca.pem")
	must(os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o644))
	s.cfg = stage.Config{Roots: []string{s.root}, Private: true, CA: ca, MaxBytes: 32 << 20}
	return s
}

// testStaging brings inputs to where only the agent is: all of them, as they
// are, or none.
func testStaging(t *testing.T, d sandbox.Driver) {
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("there is no git to stage a repository with (apt-get install git, as test/setup does)")
	}
	from := newSource(t)
	w := sandboxtest.Start(t, d, nil)
	w.Want("rm -rf /workspace/* /workspace/.[!.]*", "", toolset.Exited, 0)
	var log bytes.Buffer
	bring := func(m api.Metadata) error {
		t.Helper()
		from.cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
		s, err := stage.New(from.cfg)
		if err != nil {
			t.Fatal(err)
		}
		inputs, err := stage.Parse(m)
		if err != nil {
			t.Fatal(err)
		}
		draft, err := w.Files().(*tree.Tree).Draft("/workspace")
		if err != nil {
			t.Fatal(err)
		}
		return s.Stage(t.Context(), inputs, draft)
	}
	file := "file://" + from.root
	w.Want("mkdir -p data .berth-draft/left; echo before >data/big; echo mine >data/mine; ln -s /etc .berth-draft/etc", "", toolset.Exited, 0)
	if err := bring(api.Metadata{
		"input_files": file + "/big#name=data/big&sha256=" + from.big + " " + file + "/run#name=bin/run " + file + "/empty " + from.url + "/page",
		"git":         from.url + "/repo.git#commit=" + from.commit + "&name=code",
	}); err != nil {
		t.Fatal(err)
	}
	w.Want("sha256sum <data/big | cut -c1-64; cat data/mine; bin/run; stat -c '%n %a %s' data/big bin/run empty page; cat page; ls -A",
		from.big+"\nmine\nran\ndata/big 644 5242887\nbin/run 755 19\nempty 644 0\npage 644 7\na page\nbin\ncode\ndata\nempty\npage\n", toolset.Exited, 0)
	w.Want("cd code; cat sub/run.sh; stat -c %a sub/run.sh; readlink link; cat .git/HEAD; cd ..", "echo hi\n755\n/etc/passwd\n"+from.commit+"\n", toolset.Exited, 0)
	for _, words := range []string{"input staged", "bytes=5242887", "inputs staged"} {
		if !strings.Contains(log.String(), words) {
			t.Errorf("the log does not say %q:\n%s", words, log.String())
		}
	}

	w.Want("rm -rf *; mkdir taken", "", toolset.Exited, 0)
	for name, c := range map[string]struct {
		files, words string
		passing      bool
	}{
		"a wrong digest":     {file + "/big#sha256=" + strings.Repeat("0", 64), "SHA-256", false},
		"a missing file":     {file + "/none", "no such file", false},
		"a directory there":  {file + "/run#name=taken", "directory", false},
		"one that is cut":    {from.url + "/short", "broke off", true},
		"one beyond the sum": {strings.Repeat(file+"/big#name=%d ", 7), "--input-bytes", false},
	} {
		files := c.files + " " + file + "/empty#name=good"
		for i := range strings.Count(files, "%d") {
			files = strings.Replace(files, "%d", fmt.Sprint(i), 1)
		}
		var e *stage.Error
		if err := bring(api.Metadata{"input_files": files}); !errors.As(err, &e) || !strings.Contains(e.Error(), c.words) || e.Passing != c.passing {
			t.Errorf("%s: %v", name, err)
		}
		w.Want("ls -A", "taken\n", toolset.Exited, 0)
	}
	if _, err := w.Files().(*tree.Tree).Draft("/workspace/none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a draft nowhere: %v", err)
	}
}
