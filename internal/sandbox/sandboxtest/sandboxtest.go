// Package sandboxtest is the suite that every sandbox driver passes.
package sandboxtest

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/toolset"
)

// Run runs the suite against a driver.
func Run(t *testing.T, driver func(t *testing.T) sandbox.Driver) {
	d := driver(t)
	if p := d.Probe(t.Context()); !p.OK {
		t.Fatalf("probe: %s (%s)", p.Reason, p.Cure)
	}
	dir := t.TempDir()
	tree := filepath.Join(dir, "tree")
	os.Mkdir(tree, 0o755)
	sb, err := d.Start(t.Context(), sandbox.Spec{SessionID: "sesn_1", Dir: dir, Tree: tree})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []string{"echo hi; id; pwd; ls -la / /run/berth /proc/self/fd; cat /proc/self/status | grep -E 'Cap|NoNew|Seccomp|Threads'; cat /proc/self/mountinfo; ps aux; env; mount; foo; df -h; ip a; unshare -U true", "echo 'a", "$((1/0)); echo x", "foo\nbar", "exit 7", "pwd", "cat /proc/1/status; ls -la /proc/1/ /proc/1/fd; echo ${BASH_SOURCE[@]} $0 $- $SHLVL"} {
		res, err := sb.Bash(t.Context(), toolset.Command{Text: c})
		t.Logf("%s\n%s%s end=%s code=%d %v %v", c, res.Head, res.Tail, res.End, res.ExitCode, err, res.Elapsed)
	}
	if err := sb.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
}
