package crash

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// dying replaces the end of the process and counts how often it came.
func dying(t *testing.T) *int {
	t.Helper()
	n, real := 0, die
	die = func() { n++ }
	t.Cleanup(func() {
		die = real
		if err := Arm(""); err != nil {
			t.Fatal(err)
		}
	})
	return &n
}

func TestAtDiesTheNthTimeAndOnlyThere(t *testing.T) {
	n := dying(t)
	if err := Arm("b:2"); err != nil {
		t.Fatal(err)
	}
	for _, label := range []string{"a", "b", "a"} {
		if At(label); *n != 0 {
			t.Fatalf("died at %s", label)
		}
	}
	if At("b"); *n != 1 {
		t.Fatalf("died %d times at the second b", *n)
	}
	if At("b"); *n != 1 {
		t.Fatal("died again")
	}
}

func TestArmRefusesWhatNamesNoPoint(t *testing.T) {
	dying(t)
	for _, spec := range []string{"x:0", "x:-1", "x:y", "x:", ":3"} {
		if Arm(spec) == nil {
			t.Errorf("armed %q", spec)
		}
	}
	if err := Arm("x"); err != nil {
		t.Error(err)
	}
}

// The real thing: a process of its own dies of SIGKILL and runs nothing more.
func TestAtKillsTheProcess(t *testing.T) {
	if len(os.Args) > 1 && os.Args[len(os.Args)-1] == "die-now" {
		if err := Arm("here"); err != nil {
			t.Fatal(err)
		}
		os.Stdout.WriteString("before\n")
		At("here")
		os.Stdout.WriteString("after\n")
		return
	}
	out, err := exec.Command(os.Args[0], "-test.run=^TestAtKillsTheProcess$", "--", "die-now").Output()
	ee, ok := err.(*exec.ExitError)
	if !ok || ee.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("ended with %v", err)
	}
	if got := string(out); !strings.Contains(got, "before") || strings.Contains(got, "after") {
		t.Errorf("it wrote %q", got)
	}
}

func BenchmarkAtUnarmed(b *testing.B) {
	for b.Loop() {
		At("turn.before_model")
	}
}
