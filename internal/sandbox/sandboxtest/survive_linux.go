package sandboxtest

import (
	"bufio"
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/toolset"
)

// survivors is the test of a driver that calls NothingSurvives; it is also run
// as the worker that is killed.
const survivors = "^TestNothingSurvives$"

// batch is how many sessions one worker has before it is killed.
const batch = 200

// NothingSurvives starts, uses and ends n sessions. A fifth lose their worker
// to kill -9; the next one, on the same directory, finds them alive and ends
// them. Then it looks for what is left on the host. To be called by a driver's
// TestNothingSurvives.
func NothingSurvives(t *testing.T, driver func() sandbox.Driver, n int) {
	if flag.NArg() == 4 && flag.Arg(0) == "worker" {
		many, _ := strconv.Atoi(flag.Arg(2))
		worker(t, driver(), flag.Arg(1), many, flag.Arg(3))
		return
	}
	d := driver()
	if p := d.Probe(t.Context()); !p.OK {
		t.Skipf("%s cannot run here: %s (%s)", d.Name(), p.Reason, p.Cure)
	}
	began, fds := time.Now(), 0
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	dir := filepath.Join(tmp, "berth-survive-"+Nap())
	for done := 0; done < n; done += batch {
		lose(t, driver(), dir, min(batch, n-done))
		nothingLeft(t, d, dir)
		if fds == 0 {
			fds = descriptors(t, d)
		} else if now := atMost(t, d, fds); now > fds {
			t.Errorf("%d descriptors are open, %d were after the first worker", now, fds)
		}
	}
	if err := os.Remove(dir); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
		t.Errorf("in the directory for temporary files: %v %v", left, err)
	}
	took := time.Since(began)
	t.Logf("%d sessions in %v, %v each", n, took.Round(time.Millisecond), (took / time.Duration(n)).Round(100*time.Microsecond))
}

// worker has n sessions, ends four fifths and waits to be killed.
func worker(t *testing.T, d sandbox.Driver, dir string, n int, word string) {
	k := survivorKeeper(t, d, dir)
	use := func(i int) error {
		h, _, err := k.Open(t.Context(), session(i))
		if err != nil {
			return err
		}
		r, err := h.Bash(t.Context(), toolset.Command{Text: "echo used >f; setsid nohup sleep " + word + " >&- 2>&- & (sleep " + word + " &); (env -i setsid sleep " + word + " &)"})
		if err != nil || r.ExitCode != 0 {
			return fmt.Errorf("%v: %q", err, Output(r))
		}
		if i < kept(n) {
			return nil
		}
		return h.Close(t.Context(), true)
	}
	each(t, 0, kept(n), use)
	fds := descriptors(t, d)
	each(t, kept(n), n, use)
	if now := atMost(t, d, fds); now > fds {
		t.Errorf("%d descriptors are open, %d were before %d sessions came and went", now, fds, n-kept(n))
	}
	if t.Failed() {
		return
	}
	fmt.Println(leftWord)
	_, _ = os.Stdin.Read(make([]byte, 1)) // until it is killed
}

const leftWord = "the sessions are left"

func session(i int) string { return "sesn_" + strconv.Itoa(i) }

func kept(n int) int { return n / 5 }

// each does so for numbers from a to b, four at once.
func each(t *testing.T, a, b int, do func(int) error) {
	t.Helper()
	var all sync.WaitGroup
	room := make(chan struct{}, 4)
	for i := a; i < b; i++ {
		room <- struct{}{}
		all.Go(func() {
			defer func() { <-room }()
			if err := do(i); err != nil {
				t.Errorf("session %d: %v", i, err)
			}
		})
	}
	all.Wait()
}

func survivorKeeper(t *testing.T, d sandbox.Driver, dir string, mounts ...sandbox.Mount) *sandbox.Keeper {
	t.Helper()
	limits := sandbox.Limits{PIDs: 100, Memory: 256 << 20}
	k, err := sandbox.NewKeeper(sandbox.KeeperConfig{Driver: d, Dir: dir, Spec: sandbox.Spec{Limits: limits, Mounts: mounts}})
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return k
}

// lose has a worker killed amid its sessions, and the next one end them.
func lose(t *testing.T, d sandbox.Driver, dir string, n int) {
	t.Helper()
	defer closeIdle(d)
	word := Nap()
	cmd := exec.Command("/proc/self/exe", "-test.run", survivors, "-test.timeout", "20m", "--", "worker", dir, strconv.Itoa(n), word)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	left := false
	for lines := bufio.NewScanner(out); !left && lines.Scan(); {
		left = lines.Text() == leftWord
		said.WriteString(lines.Text() + "\n")
	}
	nets := map[string]bool{}
	for _, pid := range naming(t, filepath.Base(dir)) {
		if net := netOf(pid); net != "" && net != netOf(os.Getpid()) {
			nets[net] = true
		}
	}
	inside, shown := members(t, nets), mounted(t, nets)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if !left {
		t.Fatalf("the worker ended by itself:\n%s", said.String())
	}
	k := survivorKeeper(t, d, dir)
	each(t, 0, kept(n), func(i int) error {
		h, lost, err := k.Open(t.Context(), session(i))
		if err != nil || lost {
			return fmt.Errorf("lost: %v, %v", lost, err)
		}
		if r, err := h.Bash(t.Context(), toolset.Command{Text: "cat f"}); err != nil || Output(r) != "used\n" {
			return fmt.Errorf("%q %v", Output(r), err)
		}
		return h.Close(t.Context(), true)
	})
	if err := k.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	gone(t, word)
	if d.Capabilities().Network && len(nets) == 0 {
		t.Error("no session had a network of its own: the count shows nothing")
	}
	for process, net := range members(t, nets) {
		if inside[process] == net { // its number may be another's by now
			t.Errorf("process %s is left in the network %s", process, net)
		}
	}
	for _, m := range mounted(t, nets) {
		if slices.Contains(shown, m) { // as above
			t.Errorf("a network is mounted: %s", m)
		}
	}
}

// mounted are the mounts of networks.
func mounted(t *testing.T, nets map[string]bool) (found []string) {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for m := range strings.Lines(string(mounts)) {
		if slices.ContainsFunc(strings.Fields(m), func(f string) bool { return nets[f] }) {
			found = append(found, m)
		}
	}
	return found
}

// members are the processes in networks: the network by process and start.
func members(t *testing.T, nets map[string]bool) map[string]string {
	t.Helper()
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, p := range procs {
		pid, _ := strconv.Atoi(filepath.Base(p))
		stat, _ := os.ReadFile(p + "/stat")
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if net := netOf(pid); nets[net] && len(fields) > 19 {
			found[filepath.Base(p)+" of "+fields[19]] = net
		}
	}
	return found
}

func netOf(pid int) string {
	net, _ := os.Readlink("/proc/" + strconv.Itoa(pid) + "/ns/net")
	return net
}

// unnamed waits until no process names a folder, and gives those that still do:
// the killed take a moment, and who begins in mounts of its own has a copy of all
// of the host's at first.
func unnamed(t *testing.T, folder string) (left []int) {
	t.Helper()
	for end := time.Now().Add(patience); ; await(10 * time.Millisecond) {
		if left = naming(t, folder); len(left) == 0 || time.Now().After(end) {
			return left
		}
	}
}

// naming lists the processes that name a folder: in their command line, or by
// what is mounted for them.
func naming(t *testing.T, folder string) (pids []int) {
	t.Helper()
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range procs {
		for _, name := range []string{"/cmdline", "/mountinfo"} {
			if b, err := os.ReadFile(p + name); err == nil && strings.Contains(string(b), folder) {
				pid, _ := strconv.Atoi(filepath.Base(p))
				pids = append(pids, pid)
				break
			}
		}
	}
	return pids
}

// nothingLeft looks for processes, mounts, cgroups, what the driver knows of,
// and directories.
func nothingLeft(t *testing.T, d sandbox.Driver, dir string) {
	t.Helper()
	folder := filepath.Base(dir)
	if left := unnamed(t, folder); len(left) > 0 {
		t.Errorf("processes are left: %v", left)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), folder) {
		t.Errorf("mounts are left:\n%s", mounts)
	}
	if groups := Groups(t, dir); len(groups) > 0 {
		t.Errorf("cgroups are left: %v", groups)
	}
	left, err := sandbox.Leftovers(context.WithoutCancel(t.Context()), dir, []sandbox.Driver{d}, false)
	if err != nil || len(left) > 0 {
		t.Errorf("%s left %v, %v", d.Name(), left, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) > 0 {
		t.Errorf("directories are left: %v %v", entries, err)
	}
}

// testDaemons has a session try to outlive its end: by its sandbox's stop, the
// end of a call's time, and the end of its agent.
func testDaemons(t *testing.T, driver func() sandbox.Driver) {
	d := driver()
	end := map[string]func(*World){
		"stop": func(*World) {},
		"time": func(w *World) {
			if r := w.Call(toolset.Command{Text: "sleep 1000", Timeout: 200 * time.Millisecond}); r.End != toolset.TimedOut {
				w.T.Errorf("it ended as %s", r.End)
			}
		},
		"kill": func(w *World) {
			if f, ok := w.Sandbox.(forgetter); ok {
				if err := f.Process().Kill(); err != nil {
					w.T.Error(err)
				}
			}
		},
	}
	for name, by := range end {
		word := Nap()
		w := Start(t, d, nil)
		w.Want(`sleep `+word+` & setsid nohup sleep `+word+` >&- 2>&- & (setsid sleep `+word+` &); (env -i setsid sleep `+word+` &) >&- 2>&-; trap "" TERM HUP INT
			(perl -MSocket -e 'for (1..200) { fork or exit } socket(S, AF_INET, SOCK_STREAM, 0); listen(S, 1); exec "sleep", "`+word+`"' &) >&- 2>&-
			{ echo "* * * * * sleep `+word+`" >/var/spool/cron/crontabs/x; } 2>&-; true`, "", toolset.Exited, 0)
		w.reach(word, 5)
		by(w)
		began := time.Now()
		if err := w.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > patience/2 {
			t.Errorf("%s: the end took %v", name, took)
		}
		gone(t, word)
		only(t, w.Spec.Dir, "tree")
	}
	t.Setenv("TMPDIR", t.TempDir())
	dir := filepath.Join(os.TempDir(), "berth-survive-"+Nap())
	lose(t, driver(), dir, 10)
	nothingLeft(t, d, dir)
}
