package test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berthdev/berth/test/testenv"
)

// hunt looks for a needle, which it is given in two halves so as not to find
// itself, everywhere that bash can look.
func hunt(half1, half2 string) string {
	return `n='` + half1 + `'; n="$n"'` + half2 + `'
for p in /proc/[0-9]*; do
  for f in environ cmdline; do tr '\0' '\n' < $p/$f 2>/dev/null | grep -aF -- "$n" >/dev/null && echo "FOUND in $p/$f"; done
  for fd in $p/fd/*; do [ -f "$fd" ] && timeout 1 head -c 1000000 "$fd" 2>/dev/null | grep -aF -- "$n" >/dev/null && echo "FOUND in $fd"; done
done
for d in /workspace /tmp /var /etc /home /root /run /mnt /opt /srv /dev/shm; do
  timeout 20 grep -rlaF --exclude-dir=proc -- "$n" $d 2>/dev/null | sed 's/^/FOUND in /'
done
env | grep -F -- "$n" && echo "FOUND in env"
echo searched`
}

// From bash in namespaces, the keys planted in the worker's environment, its
// data directory and the process table are not found; there is no network;
// another session's workspace is not reachable.
func TestBashFindsNothingWorthStealing(t *testing.T) {
	w := testenv.Start(t, testenv.Options{})
	w.Worker("", "--sandbox", "namespaces")
	planted := filepath.Join(os.TempDir(), "berth-planted-"+filepath.Base(t.TempDir()))
	if err := os.WriteFile(planted, []byte(w.EnvKey+"\n"+w.APIKey), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(planted) })

	agent := w.Agent()
	neighbour := w.Session(agent, testenv.Script(testenv.Say("go", testenv.Bash("echo neighbour-was-here > /workspace/secret.txt; sleep 1000 & echo ok")), testenv.Say("done")))
	w.Ended(neighbour)

	halves := func(key string) string { return hunt(key[:12], key[12:28]) }
	session := w.Session(agent, testenv.Script(
		testenv.Say("keys", testenv.Bash(halves(w.EnvKey)), testenv.Bash(halves(w.APIKey))),
		testenv.Say("processes", testenv.Bash("ls -d /proc/[0-9]* | wc -l; cat /proc/[0-9]*/comm | sort -u")),
		testenv.Say("network", testenv.Bash(`ls /sys/class/net 2>/dev/null; cat /proc/net/dev | tail -n +3 | cut -d: -f1; (exec 3<>/dev/tcp/127.0.0.1/`+w.BaseURL[strings.LastIndex(w.BaseURL, ":")+1:]+`) 2>&1 && echo CONNECTED; (exec 3<>/dev/udp/169.254.169.254/80) 2>&1 && echo REACHED; true`)),
		testenv.Say("neighbour", testenv.Bash("n=neighbour; n=$n-was; timeout 60 grep -rlF $n-here / --exclude-dir=proc --exclude-dir=sys --exclude-dir=usr 2>/dev/null; echo looked")),
		testenv.Say("self", testenv.Bash("grep -E 'NoNewPrivs|CapEff|CapBnd|CapPrm' /proc/self/status")),
		testenv.Say("done")))
	events := w.Ended(session)
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
