// Package test holds the tests of the whole: of the project itself, and of
// the real binary under real clients, crashes and load.
package test

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/berthdev/berth"

type pkg struct {
	ImportPath, Dir, Name    string
	Imports, Deps, GoFiles   []string
	TestImports, TestGoFiles []string
}

// room is the package's path inside the module; "" is the root.
func (p pkg) room() string { return strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/") }

func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,Name,Imports,Deps,GoFiles,TestImports,TestGoFiles", "./...")
	cmd.Dir = ".."
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []pkg
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for dec.More() {
		var p pkg
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	return all
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	for _, p := range packages(t) {
		files := p.GoFiles
		if len(files) == 0 {
			files = p.TestGoFiles
		}
		found := len(files) == 0
		for _, f := range files {
			file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, f), nil, parser.ParseComments|parser.PackageClauseOnly)
			if err != nil {
				t.Fatal(err)
			}
			found = found || file.Doc != nil && strings.TrimSpace(file.Doc.Text()) != ""
		}
		if !found {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}

// ARCHITECTURE.md lists rooms in its first column as `room`.
var roomRow = regexp.MustCompile("(?m)^\\| `([^`]+)` \\|")

func TestArchitectureNamesEveryRoom(t *testing.T) {
	page, err := os.ReadFile("../ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	var named []string
	for _, m := range roomRow.FindAllStringSubmatch(string(page), -1) {
		named = append(named, strings.TrimSuffix(m[1], "/"))
	}
	var rooms []string
	for _, p := range packages(t) {
		if p.room() != "" {
			rooms = append(rooms, p.room())
		}
	}
	for _, r := range rooms {
		if !slices.Contains(named, r) {
			t.Errorf("ARCHITECTURE.md does not name the room %s", r)
		}
	}
	for _, n := range named {
		if !slices.Contains(rooms, n) {
			t.Errorf("ARCHITECTURE.md names %s, which is no room", n)
		}
	}
}

// arrows lists, for a room and all below it, the rooms it may import; the
// first row that fits counts. "internal/" allows every internal room.
var arrows = []struct {
	room string
	may  []string
}{
	{"api", nil},
	{"client", []string{"api"}},
	{"toolset", []string{"api"}},
	{"worker/workertest", []string{"api"}},
	{"worker", []string{"api", "client", "toolset"}},
	{"internal/plane", []string{"api"}},
	{"internal/crash", nil},
	{"internal/store", []string{"api", "internal/plane", "internal/store"}},
	{"internal/auth", []string{"api", "internal/plane", "internal/store"}},
	{"internal/events", []string{"api", "internal/plane", "internal/store"}},
	{"internal/queue", []string{"api", "internal/plane", "internal/store", "internal/auth", "internal/events"}},
	{"internal/model", []string{"api", "internal/plane", "internal/model"}},
	{"internal/turn", []string{"api", "internal/plane", "internal/store", "internal/queue", "internal/events", "internal/model", "internal/crash"}},
	{"internal/httpapi", []string{"api", "internal/plane", "internal/store", "internal/queue", "internal/events", "internal/turn", "internal/auth", "internal/model"}},
	{"internal/journal", []string{"api", "worker"}},
	{"internal/metrics", []string{"api", "worker", "worker/memory"}},
	{"internal/tracing", []string{"client", "worker"}},
	{"internal/onwork", []string{"api", "client", "worker"}},
	{"internal/agentwire", nil},
	{"internal/entry", nil},
	{"internal/slack", nil},
	{"internal/awsauth", nil},
	{"internal/egress", nil},
	{"internal/sandbox/sandboxtest", []string{"api", "toolset", "internal/sandbox", "internal/crash", "internal/archive", "internal/egress", "internal/agentwire", "internal/child"}},
	{"internal/sandbox", []string{"api", "toolset", "internal/sandbox", "internal/crash", "internal/agentwire", "internal/slack", "internal/child"}},
	{"internal/archive", nil},
	{"internal/images", []string{"api", "internal/sandbox", "internal/archive"}},
	{"internal/policy", []string{"internal/sandbox", "internal/egress"}},
	{"internal/stage", []string{"api", "internal/egress"}},
	{"internal/mcp", []string{"api", "toolset"}},
	{"internal/tools", []string{"api", "toolset", "worker", "internal/mcp"}},
	{"internal/skills", []string{"api", "client", "worker", "internal/archive"}},
	{"internal/outputs", []string{"api", "toolset", "internal/sandbox/removal"}},
	{"internal/child", []string{"internal/agentwire", "internal/slack", "internal/child"}},
	{"internal/config", []string{"api", "internal/plane"}},
	{"internal/app", []string{"api", "client", "worker", "toolset", "internal/"}},
	{"internal/doctor", []string{"api", "client", "worker", "internal/"}},
	{"cmd", []string{"api", "client", "worker", "toolset", "internal/"}},
	{"examples", []string{"api", "client", "worker", "toolset"}},
	{"test", []string{"api", "client", "worker", "toolset", "internal/"}},
}

func TestImportsFollowTheArrows(t *testing.T) {
	within := func(room, area string) bool {
		return room == area || strings.HasPrefix(room, strings.TrimSuffix(area, "/")+"/")
	}
	for _, p := range packages(t) {
		if p.room() == "" {
			continue
		}
		i := slices.IndexFunc(arrows, func(a struct {
			room string
			may  []string
		}) bool {
			return within(p.room(), a.room)
		})
		if i < 0 {
			t.Errorf("%s has no row in the arrows", p.room())
			continue
		}
		for _, imp := range p.Imports {
			to, ours := strings.CutPrefix(imp, module+"/")
			if !ours || within(to, arrows[i].room) {
				continue
			}
			if !slices.ContainsFunc(arrows[i].may, func(area string) bool { return within(to, area) }) {
				t.Errorf("%s imports %s against the arrows", p.room(), to)
			}
		}
	}
}

// The public packages stay light: whoever embeds the worker links neither a
// database nor a provider's SDK.
func TestPublicPackagesLinkNothingHeavy(t *testing.T) {
	heavy := []string{"modernc.org/", "github.com/jackc/", "github.com/moby/", "k8s.io/", "github.com/anthropics/", "database/sql", module + "/internal/"}
	for _, p := range packages(t) {
		if !slices.Contains([]string{"api", "client", "toolset", "worker", "worker/memory", "worker/workertest"}, p.room()) {
			continue
		}
		for _, dep := range p.Deps {
			for _, h := range heavy {
				if strings.HasPrefix(dep, h) {
					t.Errorf("%s links %s", p.room(), dep)
				}
			}
		}
	}
}

func TestModuleHasNoReplace(t *testing.T) {
	mod, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if regexp.MustCompile(`(?m)^\s*replace\b`).Match(mod) {
		t.Error("go.mod has a replace directive")
	}
}

// The environment is read once, in config; the agent on the far side of a
// re-exec has nothing else to read.
func TestOnlyConfigReadsTheEnvironment(t *testing.T) {
	allowed := []string{"internal/config", "internal/child", "cmd/berth-agent", "internal/store/storetest", "internal/sandbox/docker/dockertest", "test"}
	for _, p := range packages(t) {
		if slices.ContainsFunc(allowed, func(a string) bool { return p.room() == a || strings.HasPrefix(p.room(), a+"/") }) {
			continue
		}
		for _, f := range p.GoFiles {
			file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, f), nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(file, func(n ast.Node) bool {
				sel, ok := n.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				if id, ok := sel.X.(*ast.Ident); ok && id.Name == "os" &&
					slices.Contains([]string{"Getenv", "LookupEnv", "Environ", "ExpandEnv"}, sel.Sel.Name) {
					t.Errorf("%s/%s reads the environment with os.%s", p.room(), f, sel.Sel.Name)
				}
				return true
			})
		}
	}
}

func TestNoRoomForOddsAndEnds(t *testing.T) {
	for _, p := range packages(t) {
		if base := filepath.Base(p.room()); slices.Contains([]string{"util", "utils", "common", "types", "helpers", "misc"}, base) {
			t.Errorf("%s: find the noun", p.room())
		}
	}
}

// A newcomer finds what there is to do: make explains itself, the README names
// two commands and leads on, and every page that it leads to is there.
func TestTheDoorIsOpen(t *testing.T) {
	make, err := exec.Command("make", "-s", "-C", "..").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range []string{"build", "runsc", "demo", "test", "soak", "bench", "lint", "dev"} {
		if !regexp.MustCompile(`(?m)^  make ` + task + ` +\S`).Match(make) {
			t.Errorf("make does not explain %s:\n%s", task, make)
		}
	}
	readme := text(t, "README.md")
	commands := regexp.MustCompile("## Two commands\n\n```\n(make demo .*)\n(make test .*)\n```\n").FindStringSubmatch(readme)
	if commands == nil || !strings.HasPrefix(readme, "# Berth\n\nManaged Agents ") {
		t.Error("the README does not begin with what this is, or has not exactly two commands")
	}
	for _, page := range []string{"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/checks.md"} {
		for _, link := range regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`).FindAllStringSubmatch(text(t, page), -1) {
			if _, err := os.Stat(filepath.Join("..", filepath.Dir(page), link[1])); err != nil {
				t.Errorf("%s leads to %s, which is not there", page, link[1])
			}
		}
	}
	if !strings.Contains(text(t, "LICENSE"), "Apache License\n                           Version 2.0") {
		t.Error("the licence is not Apache-2.0")
	}
	ci := text(t, ".ci/run")
	for _, step := range []string{"export CI=true", "./test/setup", "make lint", "make test", "-race", "linux/arm64 darwin/arm64"} {
		if !strings.Contains(ci, step) {
			t.Errorf(".ci/run lacks %q", step)
		}
	}
}

// text is a file of the project.
func text(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
