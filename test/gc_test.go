package test

import (
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/docker/dockertest"
	"github.com/berthdev/berth/test/testenv"
)

// A worker is killed amid a call, and none comes after it: berth sandbox gc ends
// its sandboxes, those that were ready too, and leaves the session's files.
func TestGCAfterACrash(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("gvisor, docker and disks need root: run the test as root")
	}
	for _, way := range []string{"process", "namespaces", "gvisor", "docker"} {
		t.Run(way, func(t *testing.T) {
			flags := []string{"--sandbox", way}
			switch way {
			case "gvisor":
				flags = append(flags, ways[way](t)...)
			case "docker":
				flags = append(flags, "--docker-host", dockertest.Host(t))
			}
			w, state := testenv.Start(t, testenv.Options{}), t.TempDir()
			word := "3" + strconv.FormatInt(time.Now().UnixNano(), 10)
			worker := w.WorkerIn(state, "", append([]string{"--warm", "1", "--disk", "32MiB", "--memory", "256MiB"}, flags...)...)
			session := w.Session(w.Agent(), testenv.Script(testenv.Say("go", testenv.Bash("echo kept >f; setsid nohup sleep "+word+" >/dev/null 2>&1 & touch there; sleep "+word)), testenv.Say("done")))
			sandboxes := filepath.Join(state, "sandboxes")
			came := until(testenv.Patience, func() bool {
				_, err := os.Stat(filepath.Join(sandboxes, session, "tree/workspace/there"))
				ready, _ := filepath.Glob(filepath.Join(sandboxes, "warm.*", "receipt.json"))
				return err == nil && len(ready) > 0
			})
			if !came {
				t.Fatalf("the call and a sandbox that is ready never came\n%s", worker.Log())
			}
			worker.Kill()
			if left := leftOver(t, sandboxes, word); len(left) == 0 {
				t.Fatal("the crash has left nothing: the test shows nothing")
			}

			gone := gc(t, state, flags...)
			if !strings.Contains(gone, session) || !strings.Contains(gone, "warm.") {
				t.Errorf("it removed %s", gone)
			}
			until(testenv.Patience, func() bool { return len(leftOver(t, sandboxes, word)) == 0 }) // the killed take a moment
			if left := leftOver(t, sandboxes, word); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
			entries, err := os.ReadDir(sandboxes)
			if err != nil || len(entries) != 1 || entries[0].Name() != session {
				t.Errorf("the folders are %v, %v", entries, err)
			}
			if again := gc(t, state, flags...); again != "" {
				t.Errorf("a second look finds %s", again)
			}
		})
	}
}

// gc runs berth sandbox gc and gives the names of what it removed.
func gc(t *testing.T, state string, flags ...string) string {
	t.Helper()
	cmd := exec.Command(testenv.Binary(t), append([]string{"sandbox", "gc", "--json", "--state-dir", state}, flags...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}
	out, err := cmd.Output()
	var removed struct {
		Data []struct {
			Kind, Name string
			Removed    bool
		}
	}
	if err != nil || json.Unmarshal(out, &removed) != nil {
		t.Fatalf("gc: %v\n%s", err, out)
	}
	var names []string
	for _, r := range removed.Data {
		if r.Kind == "cgroup" && !strings.HasPrefix(filepath.Base(r.Name), labels(filepath.Join(state, "sandboxes"))) {
			continue // empty, and another test's
		}
		if !r.Removed {
			t.Errorf("%s %s was not removed", r.Kind, r.Name)
		}
		names = append(names, r.Name)
	}
	return strings.Join(names, " ")
}

// leftOver lists the processes, mounts and cgroups of the sandboxes of a
// directory; word is in the command lines of what they run.
func leftOver(t *testing.T, sandboxes, word string) (found []string) {
	t.Helper()
	procs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range procs {
		b, _ := os.ReadFile(p)
		if line := string(b); strings.Contains(line, sandboxes) || strings.Contains("\x00"+line, "\x00"+word+"\x00") {
			found = append(found, "process "+strings.ReplaceAll(line, "\x00", " "))
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, sandboxes) {
			found = append(found, "mount "+line)
		}
	}
	label := labels(sandboxes)
	_ = filepath.WalkDir("/sys/fs/cgroup", func(p string, e fs.DirEntry, err error) error {
		if err == nil && strings.HasPrefix(e.Name(), label) {
			found = append(found, "cgroup "+p)
		}
		return nil // groups come and go
	})
	return found
}

// labels begins what is on the host of the sandboxes of a directory.
func labels(sandboxes string) string {
	return strings.TrimSuffix(sandbox.Label(filepath.Join(sandboxes, "x")), "x")
}
