package toolset_test

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/berthdev/berth/toolset"
)

func lines(s ...string) string { return strings.Join(s, "\n") }

func TestGlob(t *testing.T) {
	w := newWorld(t, toolset.Options{})
	for i, name := range []string{"a.go", "b.go", "src/c.go", "src/deep/er/d.go", "src/deep/e.txt", ".hidden/f.go", ".git/g.go", "node_modules/h.go", "odd/[x].go", "odd/{y}.go", "odd/z!.c"} {
		w.put(name, "x")
		w.at(name, i)
	}
	must(t, os.Symlink("/workspace/src", filepath.Join(w.root, "workspace/link")))
	for i, dir := range []string{"src", "src/deep", "src/deep/er", ".hidden", ".git", "node_modules", "odd"} {
		w.at(dir, 100+i)
	}
	g := func(pattern string, path ...string) args {
		a := args{"pattern": pattern}
		if len(path) > 0 {
			a["path"] = path[0]
		}
		return a
	}
	allGo := []string{"/workspace/a.go", "/workspace/b.go", "/workspace/src/c.go", "/workspace/src/deep/er/d.go", "/workspace/.hidden/f.go", "/workspace/.git/g.go", "/workspace/node_modules/h.go", "/workspace/odd/[x].go", "/workspace/odd/{y}.go"}
	w.run("glob", []step{
		{g("*.go"), lines("/workspace/a.go", "/workspace/b.go")},
		{g("**/*.go"), lines(allGo...)},
		{g("./**/*.go"), lines(allGo...)},
		{g("**/*.go", "src"), lines("/workspace/src/c.go", "/workspace/src/deep/er/d.go")},
		{g("**/*.go", "/workspace/src/deep"), "/workspace/src/deep/er/d.go"},
		{g("src/**"), lines("/workspace/src/c.go", "/workspace/src/deep/er/d.go", "/workspace/src/deep/e.txt", "/workspace/src", "/workspace/src/deep", "/workspace/src/deep/er")},
		{g("src/**/er"), "/workspace/src/deep/er"},
		{g("**/deep/**/*.go"), "/workspace/src/deep/er/d.go"},
		{g("src/*/*.txt"), "/workspace/src/deep/e.txt"},
		{g("{a,src/c}.go"), lines("/workspace/a.go", "/workspace/src/c.go")},
		{g("**/*.{txt,c}"), lines("/workspace/src/deep/e.txt", "/workspace/odd/z!.c")},
		{g("{a,{b,zz}}.g{o,z}"), lines("/workspace/a.go", "/workspace/b.go")},
		{g("[ab].go"), lines("/workspace/a.go", "/workspace/b.go")},
		{g("[!a].go"), "/workspace/b.go"},
		{g("?.go"), lines("/workspace/a.go", "/workspace/b.go")},
		{g(`odd/\[x].go`), "/workspace/odd/[x].go"},
		{g(`odd/\{y\}.go`), "/workspace/odd/{y}.go"},
		{g(".*/*.go"), lines("/workspace/.hidden/f.go", "/workspace/.git/g.go")},
		{g("lin*"), "/workspace/link"},
		{g("link/*.go"), "no matches"},
		{g("*.rs"), "no matches"},
		{g("*.go", "nothing"), "ERROR glob nothing: no such file or directory"},
		{g("*.go", "a.go"), "ERROR glob a.go: not a directory"},
		{g("*.go", "/etc"), `ERROR glob: path "/etc" is outside the session's working directory and its other permitted directories`},
		{g(""), "ERROR glob: pattern is required"},
		{args{"pattern": 1}, "ERROR invalid glob input: pattern must be a string"},
		{g("/workspace/*.go"), "ERROR glob: absolute pattern not permitted; pass a relative pattern (and optionally path)"},
		{g("../*.go"), `ERROR glob: pattern "../*.go" must not contain a ".." segment`},
		{g("a/{b,..}/c"), `ERROR glob: pattern "a/{b,..}/c" must not contain a ".." segment`},
		{g("[a"), `ERROR glob: pattern "[a" is not a valid pattern`},
		{g(strings.Repeat("{a,b}", 20)), `ERROR glob: pattern "` + strings.Repeat("{a,b}", 20) + `" has too many alternatives`},
		{g(strings.Repeat("a", 5000)), `ERROR glob: pattern "` + strings.Repeat("a", 5000) + `" is too long`},
		{g(strings.Repeat("**/a*", 300)), "no matches"},
	})
}

func TestGlobSaysWhatItLeavesOut(t *testing.T) {
	w := newWorld(t, toolset.Options{})
	for i := range 1250 {
		name := fmt.Sprintf("%04d", i)
		w.put(name, "")
		w.at(name, (i*617+5)%1250)
	}
	timed := w.Set
	for what, set := range map[string]*toolset.Set{
		"times looked up together":   timed,
		"times looked up one by one": toolset.New(host{w.sh, struct{ toolset.Files }{w.files}}, toolset.Options{}),
	} {
		w.Set = set
		got := strings.Split(w.call("glob", args{"pattern": "*"}), "\n")
		if len(got) != 201 || got[200] != "[the newest 200 of 1250 matches; 1050 are not shown: narrow the pattern or the path]" {
			t.Fatalf("%s: %d lines, the last %q", what, len(got), got[len(got)-1])
		}
		for age, line := range got[:200] {
			var i int
			if _, err := fmt.Sscanf(line, "/workspace/%04d", &i); err != nil || (i*617+5)%1250 != age {
				t.Fatalf("%s: line %d is %q", what, age, line)
			}
		}
	}
}

func TestGrep(t *testing.T) {
	w := newWorld(t, toolset.Options{})
	w.put("a.txt", "first line\nneedle here\nlast Needle")
	w.put("b/c.txt", "x\r\nneedle\r\n\r\n")
	w.put("b/d.txt", "no match")
	w.put(".hidden", "needle too\n")
	w.put(".git/x", "needle\n")
	w.put("node_modules/x", "needle\n")
	w.put("bin", "\x00needle\n")
	w.put("utf8", "größe\nKelvin \u212A\nſt\n")
	w.put("empty", "")
	w.put("long", strings.Repeat("x", 5000)+"needle"+strings.Repeat("y", 5000)+"\n")
	must(t, os.Symlink("/workspace/a.txt", filepath.Join(w.root, "workspace/link")))
	must(t, os.Symlink("/etc/passwd", filepath.Join(w.root, "workspace/escape")))
	must(t, syscall.Mkfifo(filepath.Join(w.root, "workspace/fifo"), 0o644))
	g := func(pattern string, path ...string) args {
		a := args{"pattern": pattern}
		if len(path) > 0 {
			a["path"] = path[0]
		}
		return a
	}
	long := "/workspace/long:1:[4500 bytes] " + strings.Repeat("x", 500) + "needle" + strings.Repeat("y", 1494) + " [3506 more bytes]"
	w.run("grep", []step{
		{g("needle"), lines("/workspace/.hidden:1:needle too", "/workspace/a.txt:2:needle here", long, "/workspace/b/c.txt:2:needle")},
		{g("^needle"), lines("/workspace/.hidden:1:needle too", "/workspace/a.txt:2:needle here", "/workspace/b/c.txt:2:needle")},
		{g("needle$"), "/workspace/b/c.txt:2:needle"},
		{g("(?i)NEEDLE$"), lines("/workspace/a.txt:3:last Needle", "/workspace/b/c.txt:2:needle")},
		{g("first|last"), lines("/workspace/a.txt:1:first line", "/workspace/a.txt:3:last Needle")},
		{g(`^\w+ (line|here)$`), lines("/workspace/a.txt:1:first line", "/workspace/a.txt:2:needle here")},
		{g(`gr..e`), "/workspace/utf8:1:größe"},
		{g(`(?i)GRÖSSE|größe`), "/workspace/utf8:1:größe"},
		{g(`(?i)kelvin k`), "/workspace/utf8:2:Kelvin \u212A"},
		{g(`(?i)^st$`), "/workspace/utf8:3:ſt"},
		{g(`^$`, "b"), "/workspace/b/c.txt:3:"},
		{g("needle", "b"), "/workspace/b/c.txt:2:needle"},
		{g("needle", "a.txt"), "/workspace/a.txt:2:needle here"},
		{g("needle", "./a.txt"), "/workspace/a.txt:2:needle here"},
		{g("needle", "/workspace/a.txt"), "/workspace/a.txt:2:needle here"},
		{g("needle", "link"), "/workspace/link:2:needle here"},
		{g("needle", "bin"), "no matches\n[/workspace/bin is binary and was not searched]"},
		{g("needle", ".git"), "/workspace/.git/x:1:needle"},
		{g("zzz"), "no matches"},
		{g("line\nneedle"), "no matches"},
		{g("root", "escape"), `ERROR grep: path "escape" is outside the session's working directory and its other permitted directories`},
		{g("root", "/etc"), `ERROR grep: path "/etc" is outside the session's working directory and its other permitted directories`},
		{g("x", "fifo"), "ERROR grep: fifo is not a regular file"},
		{g("x", "nothing"), "ERROR grep nothing: no such file or directory"},
		{g(""), "ERROR grep: pattern is required"},
		{g("("), "ERROR grep: invalid regex: error parsing regexp: missing closing ): `(`"},
		{args{"pattern": []int{1}}, "ERROR invalid grep input: pattern must be a string"},
		{g(strings.Repeat("a", 70_000)), "ERROR grep: the pattern is longer than 65536 bytes"},
	})
}

func TestGrepIsBounded(t *testing.T) {
	w := newWorld(t, toolset.Options{})
	for i := range 40 {
		w.put(fmt.Sprintf("f%02d", i), strings.Repeat("a needle in a line of some length\n", 500))
	}
	got := w.call("grep", args{"pattern": "needle"})
	body, note, _ := strings.Cut(got, "\n[")
	if len(body) > 100<<10 || len(body) < 99<<10 || note != "output truncated at 102400 bytes: there are more matches; narrow the pattern or the path]" {
		t.Errorf("%d bytes and %q", len(body), note)
	}
	for i, line := range strings.Split(body, "\n") {
		if want := fmt.Sprintf("/workspace/f%02d:%d:a needle in a line of some length", i/500, i%500+1); line != want {
			t.Fatalf("line %d is %q, want %q", i, line, want)
		}
	}
}

// A line that does not fit a worker's buffer, files bigger than it, and lines
// across its border.
func TestGrepInBigFiles(t *testing.T) {
	w := newWorld(t, toolset.Options{})
	var b strings.Builder
	for i := range 300_000 {
		fmt.Fprintf(&b, "line %d of many\n", i+1)
	}
	w.put("many", b.String())
	w.put("wide", strings.Repeat("x", 3<<20)+"needle\nnext needle\n")
	w.put("huge", strings.Repeat("y", 17<<20)+"needle\n")
	got := w.call("grep", args{"pattern": `^line \d*99999 of`})
	if want := lines("/workspace/many:99999:line 99999 of many", "/workspace/many:199999:line 199999 of many", "/workspace/many:299999:line 299999 of many",
		"[incomplete: 1 files have lines of more than 16777216 bytes, which were searched in pieces, first /workspace/huge]"); got != want {
		t.Errorf("got %q", got)
	}
	got = w.call("grep", args{"pattern": "needle"})
	for _, want := range []string{"/workspace/wide:1:[3143734 bytes] ", "/workspace/wide:2:next needle", "/workspace/huge:1:", "[incomplete: 1 files have lines of more than 16777216 bytes, which were searched in pieces, first /workspace/huge]"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing", want)
		}
	}
}

// slow is a file system of endless files.
type slow struct{ toolset.Files }

func (slow) Stat(string) (fs.FileInfo, error) { return dirInfo{}, nil }

func (slow) Walk(ctx context.Context, _ string, fn func(string, toolset.Entry) error) error {
	for ctx.Err() == nil {
		if err := fn("/workspace/x", dirEntry{}); err != nil {
			return err
		}
	}
	return ctx.Err()
}

type dirEntry struct{ dirInfo }

func (dirEntry) Type() fs.FileMode           { return fs.ModeSocket }
func (dirEntry) Info() (fs.FileInfo, error)  { return dirInfo{}, nil }
func (dirEntry) Open() (toolset.File, error) { return nil, toolset.ErrNotRegular }
func (dirEntry) IsDir() bool                 { return false }

type dirInfo struct{ fs.FileInfo }

func (dirInfo) IsDir() bool        { return true }
func (dirInfo) Name() string       { return "x" }
func (dirInfo) ModTime() time.Time { return time.Time{} }

func TestSearchSaysThatItStopped(t *testing.T) {
	for _, tool := range []string{"glob", "grep"} {
		w := newWorld(t, toolset.Options{})
		for opts, want := range map[toolset.Options]string{
			{SearchTime: 20 * time.Millisecond, SearchEntries: 1 << 40}: "no matches\n[incomplete: the search was stopped after 20ms; narrow the path]",
			{SearchEntries: 1000}: "no matches\n[incomplete: the search was stopped after 1000 files and directories; narrow the path]",
		} {
			w.Set = toolset.New(host{w.sh, slow{}}, opts)
			if got := w.call(tool, args{"pattern": "nothing"}); got != want {
				t.Errorf("%s: %q, want %q", tool, got, want)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		w.Set = toolset.New(host{w.sh, slow{}}, toolset.Options{})
		blocks, isError := w.Run(ctx, "", tool, []byte(`{"pattern":"nothing"}`))
		if !isError || !strings.HasPrefix(blocks[0].Text, "[interrupted") {
			t.Errorf("%s cancelled: %v", tool, blocks)
		}
	}
}

// W14: matches beyond 50,000 entries are found, not lost.
func TestSearchIsCompleteInBigTrees(t *testing.T) {
	if testing.Short() {
		t.Skip("makes 100,000 files")
	}
	w := newWorld(t, toolset.Options{})
	for d := range 100 {
		dir := filepath.Join(w.root, "workspace", fmt.Sprintf("d%02d", d))
		must(t, os.Mkdir(dir, 0o755))
		for f := range 1000 {
			content := "nothing\n"
			if f%500 == 499 {
				content = "a match\n"
			}
			must(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("f%03d.txt", f)), []byte(content), 0o644))
		}
	}
	if got := strings.Count(w.call("grep", args{"pattern": "match"}), "\n") + 1; got != 200 {
		t.Errorf("grep found %d of 200", got)
	}
	if got := w.call("glob", args{"pattern": "**/f*9.txt"}); !strings.HasSuffix(got, "[the newest 200 of 10000 matches; 9800 are not shown: narrow the pattern or the path]") {
		t.Errorf("glob says %q", got[len(got)-100:])
	}
}
