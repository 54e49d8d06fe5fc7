package sandboxtest

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/tree"
	"github.com/berthdev/berth/toolset"
)

// testParts: parts of the tree are shown at places of their own, and those that
// are read-only are so for the shell, too; the supervisor writes everywhere.
// So it is where the driver bounds the disk.
func testParts(t *testing.T, driver func() sandbox.Driver) {
	testPartsOf(t, driver, 0)
	if slices.Contains(driver().Capabilities().Limits, sandbox.LimitDisk) {
		t.Run("with a disk", func(t *testing.T) { testPartsOf(t, driver, 32<<20) })
	}
}

func testPartsOf(t *testing.T, driver func() sandbox.Driver, bytes int64) {
	d := driver()
	w := Start(t, d, func(s *sandbox.Spec) {
		s.Parts = []sandbox.Part{{Path: "/mnt/memory/fixed", ReadOnly: true}, {Path: "/data/own"}, {Path: "/data/fixed", ReadOnly: true}}
		s.Limits.Disk = bytes
	})
	files, ok := w.Files().(*tree.Tree)
	if !ok {
		t.Fatalf("its files are a %T", w.Files())
	}
	fixed, err := files.Folder("/mnt/memory/fixed")
	if err != nil {
		t.Fatal(err)
	}
	must(t, fixed.Write("a", []byte("one\n")))
	if err := files.WriteFile("/mnt/memory/fixed/b", []byte("x")); !errors.Is(err, toolset.ErrReadOnly) {
		t.Errorf("a file tool: %v", err)
	}
	must(t, files.WriteFile("/mnt/memory/b", []byte("beside\n")))
	shown := w.Do("cat /mnt/memory/fixed/a /mnt/memory/b")
	if shown.ExitCode != 0 && d.Name() == "process" {
		t.Skip("by design: without mounts of its own the shell sees the host's names")
	}
	if Output(shown) != "one\nbeside\n" {
		t.Errorf("the shell reads %q", Output(shown))
	}
	must(t, fixed.Write("d/e", []byte("new\n")))
	must(t, fixed.Remove("d/e"))
	w.Want("ls /mnt/memory/fixed", "a\n", toolset.Exited, 0)
	if !d.Capabilities().Tree {
		return // what is elsewhere is not shown by anybody there
	}
	own, err := files.Folder("/data/own")
	if err != nil {
		t.Fatal(err)
	}
	must(t, own.Write("x", []byte("two\n")))
	w.Want("cat /data/own/x; echo three >/data/own/y", "two\n", toolset.Exited, 0)
	if got := readFile(t, w, "/data/own/y"); got != "three\n" {
		t.Errorf("the file tools read %q", got)
	}
	w.Want(`cd /mnt/memory/fixed
for c in 'echo x >a' 'echo x >b' 'rm -f a' 'mkdir d' 'mv a c' 'chmod 777 .' 'rmdir /mnt/memory/fixed' 'mv /mnt/memory/fixed /mnt/memory/other' 'ln a /mnt/memory/a'; do (eval "$c") 2>/dev/null && echo "$c"; done
cat a; cd /`, "one\n", toolset.Exited, 0)
	if d.Capabilities().Files { // nor is there a way around, by what a process of the sandbox's own has open
		w.Want(`for p in /proc/[0-9]*/cwd /proc/[0-9]*/root /proc/[0-9]*/fd/*; do for f in "$p/mnt/memory/fixed/a" "$p/memory/fixed/a" "$p/fixed/a" "$p/a"; do
(echo x >"$f") 2>/dev/null && [ "$(cat /mnt/memory/fixed/a)" = x ] && echo "$f"; done; done; cat /mnt/memory/fixed/a`, "one\n", toolset.Exited, 0)
	}
	w.Want("echo x 2>/dev/null >/data/fixed/x || echo refused", "refused\n", toolset.Exited, 0)
	must(t, fixed.Write("a", []byte("changed\n")))
	w.Want("cat /mnt/memory/fixed/a", "changed\n", toolset.Exited, 0)
	if f, ok := w.Sandbox.(forgetter); ok && d.Capabilities().Recover {
		f.Close()
		sb, err := driver().Recover(t.Context(), w.Record())
		must(t, err)
		w.Sandbox = sb
		t.Cleanup(func() { must(t, sb.Stop(context.Background())) })
		fixed, err := sb.Files().(*tree.Tree).Folder("/mnt/memory/fixed")
		must(t, err)
		must(t, fixed.Write("a", []byte("by the next\n")))
		w.Want("cat /mnt/memory/fixed/a; echo x 2>/dev/null >/mnt/memory/fixed/a || echo refused", "by the next\nrefused\n", toolset.Exited, 0)
	}
}
