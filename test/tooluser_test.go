package test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/berthdev/berth/test/testenv"
)

// In deploy/Dockerfile's container, whose user is root, tools are somebody
// else: they see nothing of the worker and cannot touch it, and own what is
// theirs. With --tool-user root they are root.
func TestToolsInAContainerAreAnotherUser(t *testing.T) {
	c := newContainer(t)
	w := testenv.Start(t, testenv.Options{})
	serve := func(command string, calls []map[string]any, more ...string) (events []map[string]any, state string) {
		t.Helper()
		w.Session(w.Agent(), testenv.Script(testenv.Say("go", append([]map[string]any{testenv.Bash(command)}, calls...)...), testenv.Say("done")))
		work, session, secret := claimed(t, w)
		state = t.TempDir()
		env := []string{
			"ANTHROPIC_BASE_URL=" + w.BaseURL, "ANTHROPIC_ENVIRONMENT_ID=" + w.EnvironmentID, "ANTHROPIC_SESSION_ID=" + session,
			"ANTHROPIC_WORK_ID=" + work, "ANTHROPIC_WORK_SECRET=" + secret,
		}
		args := []string{"run", "--rm", "--network", "host", "-v", state + ":/var/lib/berth"}
		for _, kv := range env {
			name, _, _ := strings.Cut(kv, "=")
			args = append(args, "-e", name)
		}
		out := c.docker(env, append(append(args, containerImage, "--max-idle", "500ms"), more...)...)
		if !strings.Contains(out, `msg="the item is done"`) {
			t.Errorf("the worker said:\n%s", out)
		}
		return w.Events(session), state
	}
	const look = `echo "uid $UID groups ${GROUPS[*]}"
for p in /proc/[0-9]*; do
  read -r comm <$p/comm; [ "$comm" = berth ] || continue; echo "a berth"
  for f in environ mem maps; do (head -c 1 $p/$f >/dev/null) 2>/dev/null && [ -n "$(head -c 1 $p/$f 2>/dev/null | od -An -c)" ] && echo "FOUND $p/$f"; done
  kill -0 ${p#/proc/} 2>/dev/null && echo "FOUND a worker to kill"
done
ls /var/lib/berth 2>/dev/null && echo "FOUND the state"
for f in /var/lib/berth/run/*/journal.db; do [ -e "$f" ] && echo "FOUND $f"; done
(echo x >/usr/local/bin/x) 2>/dev/null && echo "FOUND a program to write"
echo kept >"$BERTH_OUTPUTS/result" && echo mine >own && echo h >"$HOME/.h" && echo "looked around"
while read -r k v; do case $k in NoNewPrivs:|CapEff:|CapBnd:) echo "$k$v" ;; esac; done </proc/self/status`
	write := map[string]any{"name": "write", "input": map[string]any{"file_path": "by-tool", "content": "y"}}
	events, state := serve(look, []map[string]any{write, testenv.Bash("echo z >>by-tool && echo appended")})
	said := testenv.Dump(testenv.Of(events, "user.tool_result"))
	if strings.Contains(said, "FOUND") || strings.Contains(said, "uid 0 ") {
		t.Errorf("bash found something:\n%s", said)
	}
	for _, want := range []string{"uid 6", "a berth", "looked around", "NoNewPrivs:1", "CapEff:0000000000000000", "CapBnd:0000000000000000", "appended"} {
		if !strings.Contains(said, want) {
			t.Errorf("no %q in\n%s", want, said)
		}
	}
	kept, err := filepath.Glob(filepath.Join(state, "run/*/outputs/*/files/result"))
	if err != nil || len(kept) != 1 {
		all, _ := filepath.Glob(filepath.Join(state, "run/*/outputs/*"))
		t.Errorf("the outputs are %v of %v, %v", kept, all, err)
	}
	events, _ = serve("echo uid $UID; echo x >/usr/local/bin/x && echo installed", nil, "--tool-user", "root")
	if said := testenv.Dump(testenv.Of(events, "user.tool_result")); !strings.Contains(said, `uid 0\ninstalled`) {
		t.Errorf("as root bash said %s", said)
	}
}
