package test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berthdev/berth/test/testenv"
)

// hunt looks for a needle, which it is given in two halves so as not to find
// itself, in what processes show of themselves and in directories.
func hunt(needle, processes, dirs string) string {
	half := len(needle) / 2
	return `n='` + needle[:half] + `'; n="$n"'` + needle[half:] + `'
for p in ` + processes + `; do
  for f in environ cmdline; do { tr "\0" "\n" < $p/$f | grep -aF -- "$n" >/dev/null; } 2>/dev/null && echo "FOUND in $p/$f"; done
  for fd in $p/fd/*; do [ -f "$fd" ] && timeout 1 head -c 1000000 "$fd" 2>/dev/null | grep -aF -- "$n" >/dev/null && echo "FOUND in $fd"; done
done
for d in ` + dirs + `; do
  timeout 20 grep -rlaF --exclude-dir=proc -- "$n" $d 2>/dev/null | sed 's/^/FOUND in /'
done
env | grep -F -- "$n" && echo "FOUND in env"
echo searched`
}

// Where bash can look.
const (
	everybody  = "/proc/[0-9]*"
	everywhere = "/workspace /tmp /var /etc /home /root /run /mnt /opt /srv /dev/shm"
)

// network tries to reach the control plane, and what clouds tell machines.
func network(w *testenv.World) string {
	return `ls /sys/class/net 2>/dev/null; cat /proc/net/dev | tail -n +3 | cut -d: -f1; (exec 3<>/dev/tcp/127.0.0.1/` + w.BaseURL[strings.LastIndex(w.BaseURL, ":")+1:] +
		`) 2>&1 && echo CONNECTED; (exec 3<>/dev/udp/169.254.169.254/80) 2>&1 && echo REACHED; true`
}

// plant leaves the world's keys where a careless host has them, beside the
// worker's environment and the data directory: in a file that all may read, and
// in the arguments, the environment and an open file of a process.
func plant(t *testing.T, w *testenv.World) (process, dir string) {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "berth-planted-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	keys := w.EnvKey + "\n" + w.APIKey + "\n"
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(filepath.Join(dir, "keys"), []byte(keys), 0o644)); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(filepath.Join(dir, "keys"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	holder := exec.Command("sh", "-c", "read line", w.EnvKey, w.APIKey)
	holder.Env, holder.ExtraFiles = []string{"KEYS=" + keys}, []*os.File{file}
	stdin, err := holder.StdinPipe()
	if err == nil {
		err = holder.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stdin.Close(); holder.Wait() })
	return fmt.Sprintf("/proc/%d", holder.Process.Pid), dir
}

// Where nothing isolates, the hunt finds the keys in all these places, and there
// is a network: what it does not find below is not there.
func TestTheHuntFindsWhatIsThere(t *testing.T) {
	w := testenv.Start(t, testenv.Options{})
	w.Worker("", "--sandbox", "process")
	process, dir := plant(t, w)
	session := w.Session(w.Agent(), testenv.Script(
		testenv.Say("keys", testenv.Bash(hunt(w.EnvKey[:28], process, dir)), testenv.Bash(hunt(w.APIKey[:28], process, dir))),
		testenv.Say("network", testenv.Bash(network(w))), testenv.Say("done")))
	results := testenv.Of(w.Ended(session), "user.tool_result")
	places := []string{process + "/environ", process + "/cmdline", process + "/fd/3", dir + "/keys"}
	for i, places := range [][]string{places, places, {"CONNECTED"}} {
		for _, place := range places {
			if got := testenv.Text(results[i]); !strings.Contains(got, place) {
				t.Errorf("hunt %d finds nothing in %s:\n%s", i, place, got)
			}
		}
	}
}

// From bash in namespaces, the keys planted in the worker's environment, its
// data directory and the process table are not found; there is no network;
// another session's workspace is not reachable.
func TestBashFindsNothingWorthStealing(t *testing.T) {
	w := testenv.Start(t, testenv.Options{})
	w.Worker("", "--sandbox", "namespaces")
	plant(t, w)

	agent := w.Agent()
	neighbour := w.Session(agent, testenv.Script(testenv.Say("go", testenv.Bash("echo neighbour-was-here > /workspace/secret.txt; sleep 1000 & echo ok")), testenv.Say("done")))
	w.Ended(neighbour)

	session := w.Session(agent, testenv.Script(
		testenv.Say("keys", testenv.Bash(hunt(w.EnvKey[:28], everybody, everywhere)), testenv.Bash(hunt(w.APIKey[:28], everybody, everywhere))),
		testenv.Say("processes", testenv.Bash("ls -d /proc/[0-9]* | wc -l; cat /proc/[0-9]*/comm | sort -u")),
		testenv.Say("network", testenv.Bash(network(w))),
		testenv.Say("neighbour", testenv.Bash("n=neighbour; n=$n-was; timeout 60 grep -rlF $n-here / --exclude-dir=proc --exclude-dir=sys --exclude-dir=usr 2>/dev/null; echo looked")),
		testenv.Say("self", testenv.Bash("grep -E 'NoNewPrivs|CapEff|CapBnd|CapPrm' /proc/self/status")),
		testenv.Say("done")))
	events := w.UntilWithin(5*testenv.Patience, session, "the end of the hunt", func(e []map[string]any) bool {
		return testenv.StopReason(e) == "end_turn"
	})
	checkLog(t, events)
	var texts []string
	for _, e := range testenv.Of(events, "user.tool_result") {
		texts = append(texts, testenv.Text(e))
	}
	if len(texts) != 6 {
		t.Fatalf("%d results:\n%s", len(texts), testenv.Dump(events))
	}
	for i, whose := range []string{"environment", "API"} {
		if strings.Contains(texts[i], "FOUND") || !strings.Contains(texts[i], "searched") {
			t.Errorf("hunting the %s key: %s", whose, texts[i])
		}
	}
	if strings.Contains(texts[2], "berth\n") || strings.Contains(texts[2], "dockerd") {
		t.Errorf("processes of the host are visible:\n%s", texts[2])
	}
	if strings.Contains(texts[3], "CONNECTED") || strings.Contains(texts[3], "REACHED") || strings.Contains(texts[3], "eth") {
		t.Errorf("there is a network:\n%s", texts[3])
	}
	if strings.TrimSpace(texts[4]) != "looked" {
		t.Errorf("the neighbour's workspace is reachable:\n%s", texts[4])
	}
	for _, want := range []string{"NoNewPrivs:\t1", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000"} {
		if !strings.Contains(texts[5], want) {
			t.Errorf("no %q in\n%s", want, texts[5])
		}
	}
}
