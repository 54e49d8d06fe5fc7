package sandboxtest

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/toolset"
)

// testLinkRace has a session swap a directory for links that lead out, while
// the file tools work through it; and lays out what no tool may open. The
// races of internal/sandbox/tree are longer and know no driver.
func testLinkRace(t *testing.T, d sandbox.Driver) {
	w := Start(t, d, nil)
	w.Perl("")
	outside := filepath.Join(filepath.Dir(w.Spec.Dir), "outside")
	if err := os.Mkdir(outside, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(outside, "f"), []byte("top secret"), 0o666); err != nil {
		t.Fatal(err)
	}
	word := Nap()
	w.Want(`mkdir a; echo inside >a/f; ln -s `+outside+` l1; ln -s /proc/self/root`+outside+` l2; ln -s ../../../../../../../../../..`+outside+` l3
		perl -e '$0 = "`+word+`"; while (1) { for ("l1", "l2", "l3") { rename "a", "t"; rename $_, "a"; rename "a", $_; rename "t", "a"; $n++ } $n % 100 or open F, ">", "turns" }' & true`, "", toolset.Exited, 0)
	files, good, turns := w.Files(), 0, false
	for began := time.Now(); time.Since(began) < 2*time.Second || (good == 0 || !turns) && time.Since(began) < patience; {
		if !turns {
			_, err := files.Stat("turns")
			turns = err == nil
		}
		if f, err := files.Open("a/f"); err == nil {
			b, _ := io.ReadAll(f)
			f.Close()
			if strings.Contains(string(b), "secret") {
				t.Fatalf("read %q", b)
			}
			good++
		}
		for _, name := range []string{"a/f", "a/made/here"} {
			if files.WriteFile(name, []byte("inside\n")) == nil {
				good++
			}
		}
		_ = files.Walk(t.Context(), "a", func(p string, e toolset.Entry) error {
			if f, err := e.Open(); err == nil {
				b, _ := io.ReadAll(f)
				f.Close()
				if strings.Contains(string(b), "secret") {
					t.Errorf("the walk read %s: %q", p, b)
				}
			}
			return nil
		})
	}
	if good == 0 || !turns {
		t.Errorf("the race shows nothing: %d came through, the other side took its turns: %v", good, turns)
	}
	t.Logf("%d reads and writes came through", good)
	only(t, outside, "f")
	if b, err := os.ReadFile(filepath.Join(outside, "f")); err != nil || string(b) != "top secret" {
		t.Errorf("outside: %q %v", b, err)
	}
	w.Want(`kill %1; mkfifo fifo; perl -MSocket -e 'socket(S, AF_UNIX, SOCK_STREAM, 0); bind(S, pack_sockaddr_un("sock"))'; ln -s /dev/zero zero; ln -s fifo tofifo; ln -s loop loop
		perl -e 'symlink $_ ? "c" . ($_ - 1) : "/etc/shadow", "c$_" for 0..10000'`, "", toolset.Exited, 0)
	for _, name := range []string{"fifo", "sock", "zero", "tofifo", "loop", "c1", "c10000", "/dev/zero", "/proc/self/root" + outside + "/f"} {
		began := time.Now()
		if f, err := files.Open(name); err == nil {
			f.Close()
			t.Errorf("%s was opened", name)
		}
		if took := time.Since(began); took > patience/2 {
			t.Errorf("%s: refused after %v", name, took)
		}
	}
	// What the tools made is the session's own.
	if err := files.WriteFile("own/file", []byte("x")); err != nil {
		t.Fatal(err)
	}
	w.Want("[ -O own ] && [ -O own/file ] && rm -r own", "", toolset.Exited, 0)
}
