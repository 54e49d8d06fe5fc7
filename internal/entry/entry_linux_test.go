package entry

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What the test binary does when a test starts it: its part is the first
// argument, and Hide comes first as in main.
func TestMain(m *testing.M) {
	if len(os.Args) < 2 || !strings.HasPrefix(os.Args[1], "part:") {
		os.Exit(m.Run())
	}
	if err := Hide(os.Environ(), map[string]string{"--key": "THE_KEY"}); err != nil {
		fmt.Println(err)
		os.Exit(99)
	}
	switch os.Args[1] {
	case "part:show":
		block, _ := os.ReadFile("/proc/self/environ")
		line, _ := os.ReadFile("/proc/self/cmdline")
		dumpable, _ := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
		open, _ := os.ReadDir("/proc/self/fd")
		carried := 0
		for _, e := range open {
			if to, _ := os.Readlink("/proc/self/fd/" + e.Name()); strings.Contains(to, "memfd") {
				carried++
			}
		}
		fmt.Printf("block=%q\nline=%q\ndumpable=%d\ncarried=%d\nkey=%s other=%s empty=%q marker=%q\n", block, line, dumpable, carried,
			os.Getenv("THE_KEY"), os.Getenv("OTHER"), os.Getenv("EMPTY"), os.Getenv(Marker))
	case "part:wait":
		ch := make(chan os.Signal, 1)
		signal.Notify(ch, unix.SIGTERM)
		fmt.Println("ready", os.Getpid())
		<-ch
		os.Exit(7)
	case "part:orphan":
		// The shell ends at once; what it leaves is the init's.
		out, err := exec.Command("/bin/sh", "-c", "sleep 0 >/dev/null 2>&1 & echo $!").Output()
		var pid int
		fmt.Sscan(string(out), &pid)
		for end := time.Now().Add(time.Minute); err == nil && unix.Kill(pid, 0) == nil; {
			if time.Now().After(end) {
				os.Exit(1)
			}
		}
		if err != nil || pid == 0 {
			os.Exit(2)
		}
	case "part:die":
		unix.Kill(os.Getpid(), unix.SIGKILL)
		select {}
	}
	os.Exit(0)
}

func TestNothingIsLeftToSee(t *testing.T) {
	cmd := exec.Command(os.Args[0], "part:show", "--key", "sk-flag", "--key=sk-joined", "--", "--key", "kept")
	cmd.Env = []string{"THE_KEY=sk-variable", "OTHER=sk-other", "EMPTY=", "GOGC=90"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	got := string(out)
	for _, want := range []string{"dumpable=0\n", "carried=0\n", `key=sk-joined other=sk-other empty="" marker=""`, `part:show\x00--\x00--key\x00kept`, `GOGC=90`} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
	seen, _, _ := strings.Cut(got, "dumpable")
	if strings.Contains(seen, "sk-") {
		t.Errorf("a key can be seen:\n%s", seen)
	}
}

func TestAMarkerThatIsNotOurs(t *testing.T) {
	for _, value := range []string{"x", "1", "77"} {
		cmd := exec.Command(os.Args[0], "part:show")
		cmd.Env = []string{Marker + "=" + value}
		if out, err := cmd.CombinedOutput(); err == nil {
			t.Errorf("%s: went on\n%s", value, out)
		}
	}
}

// first starts a part as the first process of a PID namespace.
func first(t *testing.T, part string) *exec.Cmd {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("making a PID namespace needs root")
	}
	cmd := exec.Command(os.Args[0], part)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID}
	return cmd
}

func TestTheInitsChildHoldsNothingOpen(t *testing.T) {
	cmd := first(t, "part:show")
	cmd.Env = []string{"THE_KEY=sk-variable"}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "carried=0\nkey=sk-variable") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestTheInitReaps(t *testing.T) {
	if out, err := first(t, "part:orphan").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestTheInitHandsSignalsOnAndTheStatusBack(t *testing.T) {
	cmd := first(t, "part:wait")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 64)
	n, _ := out.Read(line)
	if !bytes.HasPrefix(line, []byte("ready ")) || bytes.Equal(line[:n], []byte("ready 1\n")) {
		t.Errorf("the worker said %q", line[:n])
	}
	cmd.Process.Signal(unix.SIGTERM)
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 7 {
		t.Errorf("status %d", code)
	}
	killed := first(t, "part:die")
	killed.Run()
	if code := killed.ProcessState.ExitCode(); code != 128+int(unix.SIGKILL) {
		t.Errorf("status %d after a SIGKILL", code)
	}
}
