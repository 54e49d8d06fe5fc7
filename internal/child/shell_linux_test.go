package child

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// A command has the FIFO of the one before it, unless somebody may still have
// that: what others write is no output of its.
func TestAnOutputIsUsedAgain(t *testing.T) {
	nothing := func(*testing.T, string) {}
	for name, c := range map[string]struct {
		job   bool // the first command leaves one, which has its output
		after func(t *testing.T, path string)
		again bool
	}{
		"nobody has it": {after: nothing, again: true},
		"a job has it":  {job: true, after: nothing},
		"a job wrote to it": {after: func(t *testing.T, path string) {
			put(t, path, "late")
		}},
		"it is removed": {after: func(t *testing.T, path string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}},
		"its name is another's": {after: func(t *testing.T, path string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := &shell{dir: t.TempDir(), script: -1, report: -1, text: -1, awake: -1, spare: -1}
			for i := range s.out {
				s.out[i].fd = -1
			}
			defer s.close()
			path, b := s.dir+"/out", make([]byte, 100)
			first, err := s.takeOutput(0, false, b)
			if err != nil {
				t.Fatal(err)
			}
			was := s.out[first].id
			bash, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer bash.Close()
			if !c.job {
				bash.Close()
			}
			s.leave(first, b)
			c.after(t, path)

			second, err := s.takeOutput(1, false, b)
			if err != nil {
				t.Fatal(err)
			}
			if again := s.out[second].id == was; again != c.again {
				t.Errorf("the same FIFO: %v", again)
			}
			if n, err := unix.Read(s.out[second].fd, b); c.again && err != unix.EAGAIN {
				t.Errorf("before bash has it, it reads as %d, %v: as one that nobody has any more", n, err)
			}
			put(t, path, "mine")
			if n, err := unix.Read(s.out[second].fd, b); err != nil || string(b[:n]) != "mine" {
				t.Errorf("read %q %v", b[:max(n, 0)], err)
			}
		})
	}
}

func put(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NONBLOCK, 0)
	if err == nil {
		_, err = f.WriteString(text)
		f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}
