package child

import (
	"bufio"
	"os/exec"
	"syscall"
	"testing"
)

// TestAProcessWithoutItsFirstThread looks dead and is not: a sweep ends it.
func TestAProcessWithoutItsFirstThread(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("python3 is missing: apt-get install python3")
	}
	cmd := exec.Command(python, "-c", `import ctypes, os, threading, time
def second():
    while ") Z " not in open("/proc/%d/stat" % os.getpid()).read(): pass
    os.write(1, b"alone\n")
    time.sleep(1000)
threading.Thread(target=second).start()
ctypes.CDLL(None).pthread_exit(None)`)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	defer cmd.Wait()
	defer kill(pid)
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "alone\n" {
		t.Fatalf("its first thread does not end: %q %v", line, err)
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
