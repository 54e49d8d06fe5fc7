package test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestChecksPage holds docs/checks.md to what is there: each row has a command,
// and each command names tasks, packages, tests and rows of the benchmark that
// exist.
func TestChecksPage(t *testing.T) {
	c := checker{packages: map[string]pkg{}, tests: map[string]tests{}}
	for _, p := range packages(t) {
		c.packages["./"+p.room()] = p
	}
	bench := exec.Command("go", "run", "./test/bench", "-list")
	bench.Dir = ".."
	rows, err := bench.Output()
	if err != nil {
		t.Fatalf("the benchmark does not list its rows: %v", err)
	}
	c.rows = strings.Split(strings.TrimSpace(string(rows)), "\n")
	c.make = text(t, "Makefile")

	promises := 0
	for i, line := range strings.Split(text(t, "docs/checks.md"), "\n") {
		cells := strings.Split(strings.Trim(line, "|"), "|")
		if !strings.HasPrefix(line, "| ") || strings.TrimSpace(cells[0]) == "Promise" {
			continue
		}
		promises++
		commands := regexp.MustCompile("`[^`]+`").FindAllString(cells[len(cells)-1], -1)
		if len(cells) != 2 || len(commands) == 0 {
			t.Errorf("line %d is not a promise and its commands", i+1)
		}
		for _, command := range commands {
			if err := c.check(strings.Trim(command, "`")); err != nil {
				t.Errorf("line %d: %s: %v", i+1, command, err)
			}
		}
	}
	if promises < 100 {
		t.Errorf("only %d promises were found", promises)
	}
	for _, wrong := range []string{
		"go test ./nowhere", "go test ./docs", "go test ./api -run 'TestNothing'", "go test ./cmd/berth -run 'TestScripts/nothing'", "go test ./internal/sandbox/process -run 'TestDriver/no_such_thing'",
		"go run ./test/bench -only 'nothing'", "make nothing", "go test ./api -run '('", "go test ./api -runs 'X'", "test/nothing", "rm -rf /",
	} {
		if c.check(wrong) == nil {
			t.Errorf("%s would pass", wrong)
		}
	}
}

type checker struct {
	packages map[string]pkg // by "./room"
	tests    map[string]tests
	rows     []string
	make     string
}

// tests are a package's test functions, and the texts that may name subtests.
type tests struct{ funcs, subs []string }

var words = regexp.MustCompile(`'[^']*'|"[^"]*"|\S+`)

// check says what is wrong with a command, without running it.
func (c *checker) check(command string) error {
	args := words.FindAllString(command, -1)
	for i := range args {
		args[i] = strings.Trim(args[i], `'"`)
	}
	for len(args) > 0 && regexp.MustCompile(`^[A-Z_]+=`).MatchString(args[0]) {
		args = args[1:]
	}
	switch {
	case len(args) == 2 && args[0] == "make":
		if !regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(args[1]) + `:`).MatchString(c.make) {
			return fmt.Errorf("make has no task %s", args[1])
		}
		return nil
	case len(args) == 1 && (args[0] == ".ci/run" || strings.HasPrefix(args[0], "test/")):
		_, err := os.Stat(filepath.Join("..", args[0]))
		return err
	case len(args) == 5 && slices.Equal(args[:4], []string{"go", "build", "-o", "/dev/null"}):
		_, err := c.named(args[4])
		return err
	case len(args) == 5 && slices.Equal(args[:4], []string{"go", "run", "./test/bench", "-only"}):
		return anyMatch(args[4], c.rows)
	case len(args) > 2 && args[0] == "go" && args[1] == "test":
		return c.goTest(args[2:])
	}
	return fmt.Errorf("this is no command that the page may have")
}

func (c *checker) goTest(args []string) error {
	run, names := "", []string(nil)
	for len(args) > 0 {
		switch a := args[0]; {
		case (a == "-run" || a == "-timeout") && len(args) > 1:
			if args = args[1:]; a == "-run" {
				run = args[0]
			}
		case a == "-v":
		case strings.HasPrefix(a, "./"):
			names = append(names, a)
		default:
			return fmt.Errorf("unknown argument %s", a)
		}
		args = args[1:]
	}
	for _, name := range names {
		pkgs, err := c.named(name)
		if err != nil {
			return err
		}
		for _, p := range pkgs {
			if err = c.matched(p, run); err == nil {
				break
			}
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// named gives a package, or with /... all below it.
func (c *checker) named(name string) ([]pkg, error) {
	if root, ok := strings.CutSuffix(name, "/..."); ok {
		var below []pkg
		for _, room := range slices.Sorted(maps.Keys(c.packages)) {
			if strings.HasPrefix(room, root) {
				below = append(below, c.packages[room])
			}
		}
		if below != nil {
			return below, nil
		}
	} else if p, ok := c.packages[name]; ok {
		return []pkg{p}, nil
	}
	return nil, fmt.Errorf("there is no package %s", name)
}

// matched says whether a -run pattern chooses a test of a package.
func (c *checker) matched(p pkg, run string) error {
	own, err := c.of(p.Dir)
	if err != nil {
		return err
	}
	first, rest, sub := strings.Cut(run, "/")
	if err := anyMatch(first, own.funcs); err != nil || !sub {
		return err
	}
	subs := own.subs
	if first == "TestScripts" {
		scripts, err := filepath.Glob(filepath.Join(p.Dir, "testdata/script/*.txtar"))
		if err != nil {
			return err
		}
		subs = nil
		for _, s := range scripts {
			subs = append(subs, strings.TrimSuffix(filepath.Base(s), ".txtar"))
		}
	} else if suite, err := c.of("../internal/sandbox/sandboxtest"); err == nil && strings.HasPrefix(p.room(), "internal/sandbox/") {
		subs = slices.Concat(subs, suite.subs)
	}
	for part := range strings.SplitSeq(rest, "/") {
		if err := anyMatch(part, subs); err != nil {
			return err
		}
	}
	return nil
}

func anyMatch(pattern string, names []string) error {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(names, re.MatchString) {
		return fmt.Errorf("nothing is called %s", pattern)
	}
	return nil
}

// of reads what tests a directory has. A text of its files may name a subtest;
// the suite's names of attacks begin with another one.
func (c *checker) of(dir string) (tests, error) {
	if found, ok := c.tests[dir]; ok {
		return found, nil
	}
	pattern := "*_test.go"
	if filepath.Base(dir) == "sandboxtest" {
		pattern = "*.go"
	}
	files, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil {
		return tests{}, err
	}
	var found tests
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			return tests{}, err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				if n.Recv == nil && regexp.MustCompile(`^(Test|Fuzz|Example)`).MatchString(n.Name.Name) && n.Name.Name != "TestMain" {
					found.funcs = append(found.funcs, n.Name.Name)
				}
			case *ast.BasicLit:
				if s, ok := literal(n); ok {
					found.subs = append(found.subs, s)
				}
			}
			return true
		})
	}
	if pattern == "*.go" {
		for _, s := range slices.Clone(found.subs) {
			found.subs = append(found.subs, "attack_"+s)
		}
	}
	c.tests[dir] = found
	return found, nil
}

// literal is a text as the name of a subtest has it.
func literal(e ast.Expr) (string, bool) {
	lit, ok := e.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return "", false
	}
	s, err := strconv.Unquote(lit.Value)
	return strings.ReplaceAll(s, " ", "_"), err == nil
}
