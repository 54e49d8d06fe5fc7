// Package dockertest gives tests a Docker daemon of their own: one private
// dockerd per test binary, with everything it keeps in a directory of its own,
// no networks and no rules of a firewall, which ends with the test binary,
// however that ends; and images made of this machine's programs.
package dockertest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Host is the address of the daemon (unix:///…). The test is skipped, saying
// why, where none can run; under CI=true it fails.
func Host(t testing.TB) string {
	t.Helper()
	host, err := Start()
	if errors.Is(err, errNone) {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	if err != nil {
		t.Fatalf("start dockerd: %v", err)
	}
	return host
}

// Start is Host for a program that is no test. The daemon ends with it.
func Start() (host string, err error) {
	s, err := start()
	if err != nil {
		return "", err
	}
	return "unix://" + s.socket(), nil
}

// runtimes are those of the daemon beside its usual one, runc: gVisor's, where
// make runsc has built it. Its sandboxes have to make sockets that the host sees.
func runtimes() map[string]any {
	_, file, _, _ := runtime.Caller(0)
	path := filepath.Join(filepath.Dir(file), "../../../../bin/runsc")
	if _, err := os.Stat(path); err != nil {
		return nil
	}
	return map[string]any{"runsc": map[string]any{"path": path, "runtimeArgs": []string{"--host-uds=create"}}}
}

type server struct {
	dir  string
	life io.Closer // the keeper's input: the daemon lives while it is open
}

func (s *server) socket() string { return filepath.Join(s.dir, "docker.sock") }

var errNone = errors.New("no Docker daemon can be started here: it needs root, and dockerd (Debian: apt-get install docker.io)")

// keeper starts the daemon, waits for the end of its input, which is ours for
// as long as we live, and clears up: the daemon ends its
// containers. Overlay is asked for first; a file system
// that cannot carry one gets whole copies.
const keeper = `
dir=$1
run() {
	dockerd --config-file "$dir/config.json" --data-root "$dir/data" --exec-root "$dir/exec" --pidfile "$dir/pid" -H "unix://$dir/docker.sock" \
		--iptables=false --ip6tables=false --bridge=none --storage-driver "$1" --log-level warn </dev/null >>"$dir/log" 2>&1 &
	pid=$!
}
run overlay2
for i in $(seq 600); do
	[ -S "$dir/docker.sock" ] && break
	kill -0 $pid 2>/dev/null || { run vfs; break; }
	sleep 0.2
done
echo started
cat >/dev/null
kill -TERM $pid
wait $pid
grep -o " $dir[^ ]*" /proc/self/mountinfo | sort -r | xargs -r umount -l 2>/dev/null
rm -rf "$dir"
`

var start = sync.OnceValues(func() (*server, error) {
	if os.Geteuid() != 0 {
		return nil, errNone
	}
	for _, program := range []string{"dockerd", "containerd"} {
		if _, err := exec.LookPath(program); err != nil {
			return nil, errNone
		}
	}
	dir, err := os.MkdirTemp("", "berth-docker-")
	if err != nil {
		return nil, err
	}
	s := &server{dir: dir}
	config, err := json.Marshal(map[string]any{"runtimes": runtimes()})
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "config.json"), config, 0o600)
	}
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("/bin/sh", "-c", keeper, "berth-docker", dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a Ctrl-C is for the tests, the cleaning comes after
	if s.life, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	go cmd.Wait()
	return s, s.wait()
})

// wait returns when the daemon answers.
func (s *server) wait() error {
	var err error
	for deadline := time.Now().Add(3 * time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		var c net.Conn
		if c, err = net.Dial("unix", s.socket()); err != nil {
			continue
		}
		_, err = io.WriteString(c, "GET /_ping HTTP/1.0\r\n\r\n")
		b, _ := io.ReadAll(io.LimitReader(c, 1<<10))
		c.Close()
		if err == nil && strings.Contains(string(b), "200 OK") {
			return nil
		}
	}
	log, _ := os.ReadFile(filepath.Join(s.dir, "log"))
	return fmt.Errorf("%w\n%s", err, log)
}
