package docker_test

import (
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/docker"
	"github.com/berthdev/berth/internal/sandbox/sandboxtest"
	"github.com/berthdev/berth/toolset"
)

// TestDaemonsOfNoUse answers as daemons do whose containers cannot be held to what
// a session is promised: each is refused with its cure, and nothing is started.
func TestDaemonsOfNoUse(t *testing.T) {
	for name, c := range map[string]struct{ info, want string }{
		"rootless": {`{"OSType":"linux","SecurityOptions":["name=seccomp,profile=default","name=rootless"]}`, "the Docker daemon is rootless"},
		"windows":  {`{"OSType":"windows"}`, "runs windows containers"},
	} {
		socket := filepath.Join(t.TempDir(), "docker.sock")
		l, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		var asked []string
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked = append(asked, r.Method+" "+r.URL.Path)
			w.Header().Set("Api-Version", "1.41")
			w.Header().Set("Content-Type", "application/json")
			if strings.HasSuffix(r.URL.Path, "/info") {
				io.WriteString(w, c.info)
			}
		})}
		go server.Serve(l)
		d := docker.New(docker.Config{Host: "unix://" + socket})
		p := d.Probe(t.Context())
		_, err = d.Start(t.Context(), sandbox.Spec{SessionID: "sesn_x", Dir: t.TempDir(), Tree: t.TempDir()})
		d.CloseIdle()
		server.Close()
		if p.OK || !strings.Contains(p.Reason, c.want) || p.Cure == "" || strings.Contains(p.Reason+p.Cure, "\n") {
			t.Errorf("%s: %+v", name, p)
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: a start ended with %v", name, err)
		}
		for _, a := range asked {
			if strings.HasPrefix(a, "POST ") {
				t.Errorf("%s: the daemon was asked to %s", name, a)
			}
		}
	}
}

// TestRuntime has a daemon's runtime that is not its usual one, gVisor's: the same
// promises are proven, limits held, and nothing is left.
func TestRuntime(t *testing.T) {
	d := newDriver(t, func(c *docker.Config) { c.Runtime = "runsc" })
	p := d.Probe(t.Context())
	if strings.Contains(p.Reason, "has no runtime runsc") {
		t.Skip("gVisor is not built: bin/runsc is missing (make runsc, as test/setup does)")
	}
	if !p.OK || !strings.HasSuffix(p.Version, ", runsc") {
		t.Fatalf("%+v", p)
	}
	w := sandboxtest.Bounded(t, d, sandbox.Limits{PIDs: 100, Memory: 256 << 20, CPU: 1, OpenFiles: 77})
	if r := w.Do("cat /proc/version; ulimit -Hn; touch /usr/x 2>&-; echo $?"); !strings.Contains(sandboxtest.Output(r), "gvisor") || !strings.HasSuffix(sandboxtest.Output(r), "\n77\n1\n") {
		t.Errorf("%q", sandboxtest.Output(r))
	}
	w.Want("echo x >/workspace/f; (exit 3)", "", toolset.Exited, 3)
	if err := w.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := containers(t, d); len(got) > 0 {
		t.Errorf("containers are left: %v", got)
	}
}
