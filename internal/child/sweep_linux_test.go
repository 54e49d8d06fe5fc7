package child

import (
	"bytes"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// TestAProcessWithoutItsFirstThread looks dead and is not: a sweep ends it.
func TestAProcessWithoutItsFirstThread(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("python3 is missing")
	}
	cmd := exec.Command(python, "-c", `import ctypes, threading, time
threading.Thread(target=time.sleep, args=(1000,)).start()
ctypes.CDLL(None).pthread_exit(None)`)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	defer cmd.Wait()
	defer kill(pid)
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		if err != nil || time.Now().After(end) {
			t.Fatalf("its first thread does not end: %s %v", b, err)
		}
		if bytes.Contains(b, []byte(") Z ")) {
			break
		}
	}
	others := func(p int) bool { return p != pid }
	if processes()[pid].dead {
		t.Error("it counts as dead")
	}
	sweep(0, 0, others)
	if !processes()[pid].dead {
		t.Error("it lives on")
	}
}
