package command_test

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/docker/dockertest"
	"github.com/berthdev/berth/internal/sandbox/sandboxtest"
	"github.com/berthdev/berth/toolset"
)

// TestDockerExec has a container that somebody else has made.
func TestDockerExec(t *testing.T) {
	host := dockertest.Host(t)
	if _, err := exec.LookPath("docker"); err != nil {
		t.Skip("the program docker is missing (Debian: docker.io or docker-cli)")
	}
	docker := func(args ...string) string {
		t.Helper()
		out, err := exec.Command("docker", append([]string{"-H", host}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("docker %v: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	docker("load", "-q", "-i", dockertest.Tarball(t, dockertest.Image(t, nil, append(dockertest.Programs, "mktemp", "uname", "ln", "stat", "sha256sum", "readlink")...)))
	docker("run", "-d", "--name", "far", "--network", "none", "--entrypoint", "sleep", "berth.test/image:1", "1000000")
	defer docker("rm", "-f", "far")
	d := newDriver(t, "docker -H "+host+" exec -i far sh")
	t.Run("tools", func(t *testing.T) { testTools(t, d) })
	t.Run("staging", func(t *testing.T) { testStaging(t, d) })
	t.Run("session", func(t *testing.T) { testFar(t, d) })
	left := "unknown"
	for end := time.Now().Add(time.Minute); left != "" && time.Now().Before(end); { // who has ended is still to be collected
		left = docker("exec", "far", "sh", "-c", "ls -d /tmp/berth.* 2>/dev/null; grep -l berth-agent /proc/[0-9]*/comm; true")
	}
	if left != "" {
		t.Errorf("left at the far side: %s", left)
	}
}

// TestSSH has a real server on loopback, which leads to a root of its own.
func TestSSH(t *testing.T) {
	line := entering(t)
	sshd := "/usr/sbin/sshd"
	for _, program := range []string{sshd, "ssh", "ssh-keygen"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is missing (Debian: openssh-server, openssh-client)", program)
		}
	}
	dir := t.TempDir()
	for _, name := range []string{"host", "user"} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, name)).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // where sshd puts its unprivileged half
		t.Fatal(err)
	}
	own := sandboxtest.Loopback().String()
	l, err := net.Listen("tcp", own+":0")
	if err != nil {
		t.Fatal(err)
	}
	port := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	l.Close()
	config := "ListenAddress " + own + "\nPort " + port + "\nHostKey " + dir + "/host\nAuthorizedKeysFile " + dir + "/user.pub\nPermitRootLogin yes\n" +
		"StrictModes no\nUsePAM no\nPasswordAuthentication no\nPidFile none\nPrintMotd no\n"
	if err := os.WriteFile(filepath.Join(dir, "config"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	server := exec.Command(sshd, "-D", "-e", "-f", filepath.Join(dir, "config"))
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Process.Kill(); server.Wait() })
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if c, err := net.Dial("tcp", own+":"+port); err == nil {
			c.Close()
			break
		}
		if time.Now().After(end) {
			t.Fatal("sshd does not listen")
		}
	}
	ssh := "ssh -F none -i " + dir + "/user -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -p " + port + " root@" + own + " "
	d := newDriver(t, ssh+line)
	t.Run("tools", func(t *testing.T) { testTools(t, d) })
	t.Run("staging", func(t *testing.T) { testStaging(t, d) })
	t.Run("session", func(t *testing.T) { testFar(t, d) })
	p := newDriver(t, strings.Replace(ssh, "/user ", "/host ", 1)+line).Probe(t.Context())
	if p.OK || !strings.Contains(p.Reason, "Permission denied") {
		t.Errorf("with a wrong key: %+v", p)
	}
}

// testFar is what a session does, wherever it is.
func testFar(t *testing.T, d sandbox.Driver) {
	if p := d.Probe(t.Context()); !p.OK {
		t.Fatalf("%+v", p)
	}
	w := sandboxtest.Start(t, d, func(s *sandbox.Spec) { s.OutputBytes = 1000; s.Env = map[string]string{"MINE": "yes"} })
	w.Want("x=1; cd /tmp; echo $MINE; pwd", "yes\n/tmp\n", toolset.Exited, 0)
	w.Want("echo $x; exit 7", "1\n", toolset.ShellExited, 7)
	w.Want("pwd; echo ${x-fresh}", "/workspace\nfresh\n", toolset.Exited, 0)
	if r := w.Do("echo \"a"); r.End != toolset.Incomplete {
		t.Errorf("an open quote ended as %s", r.End)
	}
	if r := w.Call(toolset.Command{Text: "echo partly; sleep 1000", Timeout: 2 * time.Second}); r.End != toolset.TimedOut || sandboxtest.Output(r) != "partly\n" {
		t.Errorf("%s %q", r.End, sandboxtest.Output(r))
	}
	if r := w.Do("head -c 20000000 /dev/zero; printf END"); r.Dropped != 20000003-1000 || !strings.HasSuffix(string(r.Tail), "END") {
		t.Errorf("%d dropped, tail %.10q", r.Dropped, r.Tail)
	}
	if out := sandboxtest.Output(w.Do("tr '\\0' '\\n' </proc/$PPID/environ; env")); strings.Contains(out, "SSH_") || strings.Contains(out, "GOPATH") {
		t.Errorf("the environment is %s", out)
	}
	w.Want("sleep 2000 & echo out >/mnt/session/outputs/f", "", toolset.Exited, 0)
	if err := w.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(w.Spec.Tree, "mnt/session/outputs/f")); err != nil || string(b) != "out\n" {
		t.Errorf("outputs: %q %v", b, err)
	}
}
