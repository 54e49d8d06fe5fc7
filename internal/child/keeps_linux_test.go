package child

import (
	"testing"

	"golang.org/x/sys/unix"
)

// What a job wrote last, before it ended and after the output was looked at, is
// no output of the next command.
func TestALateJobsOutputIsNotTheNextCommands(t *testing.T) {
	s := &shell{dir: t.TempDir()}
	for i := range s.out {
		s.out[i].fd = -1
	}
	bash, err := s.keep()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(bash)
	defer s.close()
	if _, err := unix.Write(bash, []byte("late")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	out, err := s.takeOutput(1, true, b)
	if err != nil || !s.keeps.has {
		t.Fatalf("bash does not keep its output: %v", err)
	}
	if _, err := unix.Write(bash, []byte("mine")); err != nil {
		t.Fatal(err)
	}
	if n, err := unix.Read(s.out[out].fd, b); err != nil || string(b[:n]) != "mine" {
		t.Errorf("read %q %v", b[:max(n, 0)], err)
	}
}
