package command_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berthdev/berth/internal/child"
	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/agent"
	"github.com/berthdev/berth/internal/sandbox/command"
	"github.com/berthdev/berth/internal/sandbox/sandboxtest"
	"github.com/berthdev/berth/toolset"
)

var shared string // a directory for the binary's life

func TestMain(m *testing.M) {
	child.Main()
	var err error
	if shared, err = os.MkdirTemp("", "berth-command-test-"); err != nil {
		panic(err)
	}
	code := m.Run()
	os.RemoveAll(shared)
	os.Exit(code)
}

// program is the agent as it is shipped.
var program = sync.OnceValues(func() (*agent.Program, error) { return sandboxtest.Agent(shared) })

func newDriver(t testing.TB, line string) *command.Driver {
	t.Helper()
	p, err := program()
	if err != nil {
		t.Fatal(err)
	}
	return command.New(command.Config{Command: line, Program: p})
}

// enter is a far side on this machine: a root of its own around a session's
// tree, entered by plain unshare.
const enter = `set -e
if [ "$2" != inside ]; then
	exec env -i PATH="$PATH" unshare --mount --pid --ipc --net --uts --fork --kill-child sh "$0" "$1" inside
fi
mount -t tmpfs root /mnt
cd /mnt
mkdir -p usr etc proc dev tmp workspace mnt/session mnt/memory run home/agent
mount --rbind /usr usr
for l in bin sbin lib lib64; do ln -s usr/$l $l; done
mount -t proc proc proc
mount --rbind /dev dev
for p in workspace mnt/session mnt/memory tmp; do
	mkdir -p "$1/$p"
	mount --bind "$1/$p" $p
done
exec chroot . env -i PATH=/usr/bin:/usr/sbin HOME=/home/agent sh
`

// entering is the command line of that far side.
func entering(t testing.TB) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to make the far side")
	}
	path := filepath.Join(shared, "enter")
	if err := os.WriteFile(path, []byte(enter), 0o755); err != nil {
		t.Fatal(err)
	}
	return "sh " + path + " {tree}"
}

func TestUnshare(t *testing.T) {
	line := entering(t)
	sandboxtest.Run(t, func() sandbox.Driver { return newDriver(t, line) })
}

func TestUnshareTools(t *testing.T) { testTools(t, newDriver(t, entering(t))) }

// testTools uses the files of a session, which are reached through the agent.
func testTools(t *testing.T, d sandbox.Driver) {
	w := sandboxtest.Start(t, d, nil)
	f := w.Files()
	write := func(name, text string) {
		t.Helper()
		if err := f.WriteFile(name, []byte(text)); err != nil {
			t.Errorf("write %s: %v", name, err)
		}
	}
	read := func(name string) string {
		t.Helper()
		h, err := f.Open(name)
		if err != nil {
			t.Errorf("open %s: %v", name, err)
			return ""
		}
		defer h.Close()
		b, err := io.ReadAll(h)
		if err != nil {
			t.Errorf("read %s: %v", name, err)
		}
		return string(b)
	}
	write("a/b/c.txt", "one\n")
	w.Want("cat a/b/c.txt; stat -c %a a/b/c.txt a/b", "one\n644\n755\n", toolset.Exited, 0)
	w.Want("chmod 750 a/b/c.txt; ln a/b/c.txt hard; ln -s a/b link; ln -s nowhere dangling; mkfifo pipe; ln -s /etc out; ln -s /workspace/a/b/c.txt abs", "", toolset.Exited, 0)
	write("hard", "two, which is longer\n")
	w.Want("cat a/b/c.txt; stat -c %a,%h hard", "two, which is longer\n750,2\n", toolset.Exited, 0)
	write("link/c.txt", "3\n")
	w.Want("cat hard; rm hard", "3\n", toolset.Exited, 0)
	write("a/b/c.txt", "four\n")
	w.Want("stat -c %a a/b/c.txt; ls -A a/b", "750\nc.txt\n", toolset.Exited, 0)
	write("dangling", "made\n")
	if got := read("abs") + read("/workspace/nowhere"); got != "four\nmade\n" {
		t.Errorf("%q", got)
	}
	for name, want := range map[string]error{
		"pipe": toolset.ErrNotRegular, "a": toolset.ErrIsDir, "missing": fs.ErrNotExist, "out/passwd": toolset.ErrOutside, "/etc/passwd": toolset.ErrOutside,
		"../etc/passwd": toolset.ErrOutside, "abs/x": toolset.ErrNotDir, "/proc/self/environ": toolset.ErrOutside,
	} {
		if _, err := f.Open(name); !errors.Is(err, want) {
			t.Errorf("open %s: %v, want %v", name, err, want)
		}
	}
	for _, name := range []string{"out/x", "/etc/x", "pipe"} {
		if err := f.WriteFile(name, nil); err == nil {
			t.Errorf("wrote %s", name)
		}
	}

	big := bytes.Repeat([]byte("0123456789abcdef"), 200_000) // over three chunks
	if err := f.WriteFile("big", big); err != nil {
		t.Fatal(err)
	}
	if got := read("big"); got != string(big) {
		t.Errorf("%d bytes came back of %d", len(got), len(big))
	}
	h, err := f.Open("big")
	if err != nil {
		t.Fatal(err)
	}
	part := make([]byte, 20)
	if n, err := h.ReadAt(part, 3_000_001); n != 20 || err != nil || string(part) != "123456789abcdef01234" {
		t.Errorf("%d %v %q", n, err, part)
	}
	if n, err := h.ReadAt(part, int64(len(big))-5); n != 5 || err != io.EOF {
		t.Errorf("at the end: %d %v", n, err)
	}
	w.Want("mv big big2; echo other >big", "", toolset.Exited, 0)
	if _, err := h.ReadAt(part, 2_000_000); err == nil {
		t.Error("another file was read under the name of the first")
	}

	// More names than one answer holds.
	w.Want("mkdir many; cd many; long=$(printf 'x%.0s' $(seq 200)); for i in $(seq 6000); do :>$long$i; done; mkdir -p deep/er; :>deep/er/last; ln -s /etc etc; cd ..", "", toolset.Exited, 0)
	var seen []string
	if err := f.Walk(t.Context(), "many", func(path string, e toolset.Entry) error {
		seen = append(seen, strings.TrimPrefix(path, "/workspace/many/"))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if len(seen) != 6004 || !slices.Contains(seen, "deep/er/last") || slices.Contains(seen, "etc/passwd") {
		t.Errorf("%d entries", len(seen))
	}

	// The tools themselves.
	set := toolset.New(w.Sandbox, toolset.Options{})
	call := func(name, input, want string) {
		t.Helper()
		blocks, isError := set.Run(t.Context(), "sevt_1", name, json.RawMessage(input))
		if isError || len(blocks) != 1 || !strings.Contains(blocks[0].Text, want) {
			t.Errorf("%s %s: %+v does not say %q", name, input, blocks, want)
		}
	}
	call("write", `{"file_path":"src/main.go","content":"package main // here\n"}`, "main.go")
	call("edit", `{"file_path":"src/main.go","old_string":"here","new_string":"there"}`, "main.go")
	call("read", `{"file_path":"/workspace/src/main.go"}`, "package main // there")
	call("grep", `{"pattern":"th[e]re"}`, "main.go")
	call("glob", `{"pattern":"many/**/la*"}`, "deep/er/last")
}

// TestOutputs come to this machine when the session ends, also those of a far
// side that shares nothing with it.
func TestOutputs(t *testing.T) {
	line := entering(t)
	apart := filepath.Join(t.TempDir(), "apart")
	if err := os.Mkdir(apart, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, line := range map[string]string{"the tree itself": line, "far": strings.Replace(line, "{tree}", apart, 1)} {
		t.Run(name, func(t *testing.T) {
			w := sandboxtest.Start(t, newDriver(t, line), nil)
			w.Want("cd /mnt/session/outputs; mkdir -p d; echo one >d/f; head -c 3000000 /dev/zero >big; ln -s /etc/passwd link; mkfifo p", "", toolset.Exited, 0)
			if err := w.Stop(t.Context()); err != nil {
				t.Fatal(err)
			}
			dir := filepath.Join(w.Spec.Tree, "mnt/session/outputs")
			if b, err := os.ReadFile(filepath.Join(dir, "d/f")); err != nil || string(b) != "one\n" {
				t.Errorf("%q %v", b, err)
			}
			if st, err := os.Stat(filepath.Join(dir, "big")); err != nil || st.Size() != 3_000_000 {
				t.Errorf("%v %v", st, err)
			}
			if entries, _ := os.ReadDir(dir); len(entries) != 2 {
				t.Errorf("%v", entries)
			}
		})
	}
}

// TestOutputsElsewhere: where the directory is not to be looked into any more,
// its files are missing and not none.
func TestOutputsElsewhere(t *testing.T) {
	w := sandboxtest.Start(t, newDriver(t, entering(t)), nil)
	w.Want("cd /mnt/session && echo x >outputs/f && mkdir /opt && mv outputs /opt && ln -s /opt/outputs outputs", "", toolset.Exited, 0)
	if err := w.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	all, err := sandbox.ReadUnfetched(w.Spec.Dir)
	if err != nil || len(all) != 1 || string(all[0].Name) != "." {
		t.Errorf("missing: %v %v", all, err)
	}
}

// slow is a link of about 1.3 MB/s, until the file it is told of is there: from
// then on nothing comes.
const slow = `use Time::HiRes "sleep"; $| = 1;
while (sysread STDIN, my $b, 65536) { sleep 0.05; sleep 1 while -e $ARGV[0]; syswrite STDOUT, $b }`

// TestSlowOutputs do not hold up a session's end: what does not come in time is
// told.
func TestSlowOutputs(t *testing.T) {
	line := entering(t)
	apart, dir := t.TempDir(), t.TempDir()
	cut, link := filepath.Join(dir, "cut"), filepath.Join(dir, "slow.pl")
	if err := os.WriteFile(link, []byte(slow), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := program()
	if err != nil {
		t.Fatal(err)
	}
	const fetching = 8 * time.Second // a busy machine needs a while for the first of them
	d := command.New(command.Config{Command: "sh -c '" + strings.Replace(line, "{tree}", apart, 1) + " | perl " + link + " " + cut + "'", Program: p, FetchTime: fetching})
	for _, c := range []struct {
		name    string
		missing []string
	}{{"slow", []string{"d/big", "d/last"}}, {"cut", []string{"."}}} {
		name, missing := c.name, c.missing
		w := sandboxtest.Start(t, d, nil)
		w.Want("cd /mnt/session/outputs; mkdir -p d; echo one >a; head -c 200000000 /dev/zero >d/big; echo two >d/last", "", toolset.Exited, 0)
		if name == "cut" {
			if err := os.WriteFile(cut, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		began := time.Now()
		if err := w.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > fetching+time.Minute {
			t.Errorf("%s: the end took %v", name, took)
		}
		all, err := sandbox.ReadUnfetched(w.Spec.Dir)
		if err != nil {
			t.Error(err)
		}
		var names []string
		for _, u := range all {
			names = append(names, string(u.Name))
			t.Logf("%s: %s: %s", name, u.Name, u.Reason)
		}
		if !slices.Equal(names, missing) {
			t.Errorf("%s: %v are missing, want %v", name, names, missing)
		}
		here := ""
		if b, err := os.ReadFile(filepath.Join(w.Spec.Tree, "mnt/session/outputs/a")); err == nil {
			here = string(b)
		}
		if (here == "one\n") != (name == "slow") {
			t.Errorf("%s: a is %q", name, here)
		}
		if left, _ := filepath.Glob(filepath.Join(w.Spec.Tree, ".*")); len(left) > 0 {
			t.Errorf("%s: left behind: %v", name, left)
		}
	}
}

// TestLost has the pipe break: the agent ends what it started, and nothing
// can be taken over.
func TestLost(t *testing.T) {
	d := newDriver(t, entering(t))
	w := sandboxtest.Start(t, d, nil)
	w.Want("echo $$", sandboxtest.Output(w.Do("echo $$")), toolset.Exited, 0)
	w.Sandbox.(interface{ Close() }).Close()
	if _, err := w.Bash(t.Context(), toolset.Command{Text: "true"}); !errors.Is(err, sandbox.ErrGone) {
		t.Errorf("over a closed pipe: %v", err)
	}
	rec, err := sandbox.ReadRecord(w.Spec.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Recover(t.Context(), rec); !errors.Is(err, sandbox.ErrGone) {
		t.Errorf("recovered: %v", err)
	}
}

// TestQuiet has a supervisor that is there and says nothing: a pipe that leads
// nowhere looks the same, and the agent ends.
func TestQuiet(t *testing.T) {
	line := entering(t)
	w := sandboxtest.Start(t, newDriver(t, line), func(s *sandbox.Spec) { s.OrphanTTL = 8 * time.Second })
	// It is not the agent's patience that ends it while pings come.
	w.Want("sleep 10; echo still here", "still here\n", toolset.Exited, 0)
}

func TestBadCommands(t *testing.T) {
	for name, c := range map[string]struct{ line, want string }{
		"nothing":       {"", "no command is named"},
		"an open quote": {"ssh 'host", "ends inside a quote"},
		"no such":       {"no-such-program-here x", "no-such-program-here"},
		"it fails":      {"sh -c 'echo cannot connect >&2; exit 255'", "cannot connect"},
		"it babbles":    {"yes", "without an end"},
		"it is silent":  {"true", "the far side ended"},
		"no bash":       {"env -i PATH=/nowhere /bin/sh", "no directory takes a program"},
	} {
		p := newDriver(t, c.line).Probe(t.Context())
		if p.OK || !strings.Contains(p.Reason, c.want) || p.Cure == "" || strings.Contains(p.Reason, "\n") {
			t.Errorf("%s: %+v does not say %q", name, p, c.want)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if p := newDriver(t, "sleep 1000").Probe(ctx); p.OK || !strings.Contains(p.Reason, "does not come up") {
		t.Errorf("a far side that never answers: %+v", p)
	}
}

func TestWords(t *testing.T) {
	for line, want := range map[string][]string{
		`ssh  host sh`:              {"ssh", "host", "sh"},
		`a 'b c' "d \"e\" \x" f\ g`: {"a", "b c", `d "e" \x`, "f g"},
		`a '' ""`:                   {"a", "", ""},
	} {
		if got, err := command.Words(line); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %q %v", line, got, err)
		}
	}
}
