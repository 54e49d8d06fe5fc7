package test

import (
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berthdev/berth/internal/sandbox/docker/dockertest"
	"github.com/berthdev/berth/test/testenv"
)

// container is deploy/Dockerfile's image of this berth on a base of its own
// kind, at a daemon.
type container struct {
	t    *testing.T
	host string
}

const containerImage = "berth.test/worker:1"

func newContainer(t *testing.T) *container {
	t.Helper()
	c := &container{t: t, host: dockertest.Host(t)}
	if _, err := exec.LookPath("docker"); err != nil {
		t.Skip("docker's command line is not installed")
	}
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	from, err := os.Open(testenv.Binary(t))
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	to, err := os.OpenFile(filepath.Join(dir, "bin/berth"), os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	if _, err := io.Copy(to, from); err != nil {
		t.Fatal(err)
	}
	c.docker(nil, "load", "-i", dockertest.Tarball(t, dockertest.Image(t, nil, append([]string{"timeout", "od", "ps"}, dockertest.Programs...)...)))
	c.docker(nil, "build", "-q", "-f", "../deploy/Dockerfile", "--build-arg", "BASE=berth.test/image:1", "-t", containerImage, dir)
	return c
}

// docker runs docker with more environment and gives what it printed.
func (c *container) docker(env []string, args ...string) string {
	c.t.Helper()
	cmd := exec.Command("docker", args...)
	cmd.Env = append(append(os.Environ(), "DOCKER_HOST="+c.host, "DOCKER_BUILDKIT=0"), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		c.t.Fatalf("docker %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// claimed is an item that this test has polled and acked.
func claimed(t *testing.T, w *testenv.World) (work, session, secret string) {
	t.Helper()
	queue := "/v1/environments/" + w.EnvironmentID + "/work/"
	item := w.Must(http.MethodGet, queue+"poll?block_ms=999", w.EnvKey, nil)
	data, _ := item.Body["data"].(map[string]any)
	session, _ = data["id"].(string)
	work = item.String("id")
	w.Must(http.MethodPost, queue+work+"/ack", w.EnvKey, nil)
	return work, session, item.String("secret")
}

// An item is served by deploy/Dockerfile's entrypoint, which is the
// container's first process and root: bash finds neither key nor secret, reads
// no memory of a process of berth's, and leaves no dead process behind.
func TestAContainersEntrypointShowsBashNoKey(t *testing.T) {
	c := newContainer(t)
	w := testenv.Start(t, testenv.Options{})
	// The secret is known once the item is polled, before the hunt is sent.
	w.Session(w.Agent(), testenv.Script(testenv.Say("go", testenv.Bash("echo hello")), testenv.Say("done")))
	work, session, secret := claimed(t, w)
	dumps := `for p in /proc/[0-9]*; do
  read -r comm < $p/comm; [ "$comm" = berth ] || continue
  echo "a berth"; head -c 1 $p/environ 2>/dev/null | od -c | grep -q . && tr '\0' '\n' < $p/environ 2>/dev/null | grep -v -e ^BERTH_ENTRY= -e ^GO | sed 's/^/FOUND variable /'
  head -c 1 $p/maps >/dev/null 2>&1 && [ -s $p/maps ] && echo "FOUND memory of $p"
done; (sleep 0.1 &); (setsid sh -c 'sleep 0.1' &)
for i in $(seq 30); do
  sleep 1; z=$(for p in /proc/[0-9]*; do grep -l '^State:.*Z' $p/status 2>/dev/null; done)
  [ -n "$z" ] || break
done
[ -z "$z" ] || echo "FOUND zombie $z"; echo dumped`
	env := []string{
		"ANTHROPIC_BASE_URL=" + w.BaseURL, "ANTHROPIC_ENVIRONMENT_ID=" + w.EnvironmentID, "ANTHROPIC_ENVIRONMENT_KEY=" + w.EnvKey,
		"ANTHROPIC_SESSION_ID=" + session, "ANTHROPIC_WORK_ID=" + work, "ANTHROPIC_WORK_SECRET=" + secret,
	}
	args := []string{"run", "--rm", "--network", "host"}
	for _, kv := range env {
		name, _, _ := strings.Cut(kv, "=")
		args = append(args, "-e", name)
	}
	w.Send(session, testenv.Script(
		testenv.Say("hunt", testenv.Bash(hunt(w.EnvKey, everybody, everywhere))),
		testenv.Say("hunt on", testenv.Bash(hunt(secret, everybody, everywhere))),
		testenv.Say("read", testenv.Bash(dumps)), testenv.Say("hunted")))
	out := c.docker(env, append(args, containerImage, "--max-idle", "2s")...)
	if !strings.Contains(out, `msg="the item is done"`) {
		t.Errorf("the worker said:\n%s", out)
	}
	all := testenv.Dump(w.Events(session))
	for _, want := range []string{"hello", "searched", "a berth", "dumped", "hunted"} {
		if !strings.Contains(all, want) {
			t.Errorf("no %q", want)
		}
	}
	for _, e := range testenv.Of(w.Events(session), "user.tool_result") {
		if said := testenv.Text(e); strings.Contains(said, "FOUND") {
			t.Errorf("bash found something:\n%s", said)
		}
	}
}
