package sandboxtest

import (
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/toolset"
)

// stuff is a command that gives files of a directory extended attributes, each
// as large as size, until it can make no more of them, and prints their bytes.
func stuff(dir string, size int) string {
	return `perl -e '
		my ($dir, $size, $set) = ("` + dir + `", ` + strconv.Itoa(size) + `, 0);
		my $value = "x" x $size;
		FILE: for my $f (1..100_000) {
			my $path = "$dir/stuffed$f";
			open my $h, ">", $path or print STDERR "$!\n" and last;
			for my $i (1..200) {
				my $name = "user.a$i";
				next if syscall(` + strconv.Itoa(unix.SYS_SETXATTR) + `, $path, $name, $value, $size, 0) == 0 and ++$set * $size < 1e9;
				next FILE if $i > 1;
				print STDERR "$!\n";
				last FILE;
			}
		}
		print $set * $size, "\n"'`
}

// testAttributes fills file systems in memory with extended attributes, which
// their size does not count: they stay within the memory limit, and what comes
// next works.
func testAttributes(t *testing.T, d sandbox.Driver) {
	const memory = 128 << 20
	w := Bounded(t, d, sandbox.Limits{Memory: memory})
	w.Perl("")
	w.Want("echo kept >kept", "", toolset.Exited, 0)
	for _, dir := range []string{"/dev/shm", "/home/agent", "/run"} {
		began := time.Now()
		r, err := w.Bash(t.Context(), toolset.Command{Text: "{ " + stuff(dir, 60_000) + "; } 2>/dev/null", Timeout: time.Minute})
		t.Logf("%s: %s %d, out of memory: %v, %.60q, %v, in %v", dir, r.End, r.ExitCode, r.OOM, Output(r), err, time.Since(began))
		if d.Name() == "namespaces" && r.OOM {
			t.Errorf("%s: attributes took the memory that is for processes", dir)
		}
		if err == nil && !r.OOM {
			if n, err := strconv.Atoi(strings.TrimSpace(Output(r))); err != nil || n > memory {
				t.Errorf("%s holds %d bytes of attributes, more than the memory limit: %v", dir, n, err)
			}
			w.Want("rm -f "+dir+"/stuffed*; echo x >"+dir+"/y && cat kept", "kept\n", toolset.Exited, 0)
			continue
		}
		if err == nil {
			_, err = w.Bash(t.Context(), toolset.Command{Text: "rm -f " + dir + "/stuffed*", Timeout: time.Minute})
		}
		if err == nil {
			w.Want("cat kept", "kept\n", toolset.Exited, 0)
			continue
		}
		// The sandbox ended, and said so.
		if !errors.Is(err, sandbox.ErrGone) || !strings.Contains(err.Error(), "fresh one with the same files") {
			t.Fatalf("%s: %v", dir, err)
		}
		if err := w.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		if w.Sandbox, err = d.Start(t.Context(), w.Spec); err != nil {
			t.Fatal(err)
		}
		w.Want("cat kept", "kept\n", toolset.Exited, 0)
	}
	if err := w.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}
