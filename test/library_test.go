package test

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/lib/environments"
	"github.com/anthropics/anthropic-sdk-go/tools/agenttoolset"
)

const libraryPage = "../docs/library.md"

// quoted are the names in backticks of some text.
func quoted(text string) []string {
	var names []string
	for _, m := range regexp.MustCompile("`([^`\n]+)`").FindAllStringSubmatch(text, -1) {
		names = append(names, m[1])
	}
	return names
}

// exported gives what a folder of Go files exports, and of what kind it is: a
// func, type, value or member, which is called Type.Name.
func exported(t *testing.T, dir string, tests bool) map[string]string {
	t.Helper()
	names := map[string]string{}
	add := func(kind string, parts ...string) {
		for _, p := range parts {
			if !ast.IsExported(p) {
				return
			}
		}
		names[strings.Join(parts, ".")] = kind
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: %v, %d files", dir, err, len(files))
	}
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") != tests {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), f, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil {
					add("func", d.Name.Name)
					continue
				}
				typ := d.Recv.List[0].Type
				if star, ok := typ.(*ast.StarExpr); ok {
					typ = star.X
				}
				if id, ok := typ.(*ast.Ident); ok {
					add("member", id.Name, d.Name.Name)
				}
			case *ast.GenDecl:
				for _, s := range d.Specs {
					switch s := s.(type) {
					case *ast.ValueSpec:
						for _, n := range s.Names {
							add("value", n.Name)
						}
					case *ast.TypeSpec:
						add("type", s.Name.Name)
						var fields *ast.FieldList
						switch typ := s.Type.(type) {
						case *ast.StructType:
							fields = typ.Fields
						case *ast.InterfaceType:
							fields = typ.Methods
						default:
							continue
						}
						for _, f := range fields.List {
							for _, n := range f.Names {
								add("member", s.Name.Name, n.Name)
							}
						}
					}
				}
			}
		}
	}
	return names
}

func pageText(t *testing.T, page string) string {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Every name of ours that the page gives exists, and so does every example.
func TestLibraryPageNamesWhatIsThere(t *testing.T) {
	ours := map[string]map[string]string{}
	for _, p := range []string{"api", "client", "toolset", "worker", "worker/memory", "worker/workertest"} {
		ours[filepath.Base(p)] = exported(t, "../"+p, false)
	}
	examples := map[string]bool{}
	for _, p := range []string{"worker", "toolset", "client"} {
		for name := range exported(t, "../"+p, true) {
			examples[name] = true
		}
	}
	seen := 0
	for _, name := range quoted(pageText(t, libraryPage)) {
		if pkg, rest, ok := strings.Cut(name, "."); ok && ours[pkg] != nil {
			seen++
			if ours[pkg][rest] == "" {
				t.Errorf("%s names %s, which there is not", libraryPage, name)
			}
		}
		if strings.HasPrefix(name, "Example") && !examples[name] {
			t.Errorf("%s names %s, which there is not", libraryPage, name)
		}
	}
	if seen < 40 {
		t.Errorf("the page has %d names of ours; is it read rightly?", seen)
	}
}

// Every option and every helper of the official Go SDK's worker stands in a
// table of the page.
func TestLibraryPageHasEveryOfficialOption(t *testing.T) {
	there := map[string]bool{}
	for _, name := range quoted(pageText(t, libraryPage)) {
		there[name] = true
	}
	var want []string
	for _, options := range []any{
		environments.WorkPollerOptions{}, environments.EnvironmentWorkerOptions{}, environments.HandleItemOptions{}, environments.SessionMemoryStoresOptions{},
		anthropic.SessionToolRunnerOptions{}, agenttoolset.AgentToolContext{},
	} {
		typ := reflect.TypeOf(options)
		for i := range typ.NumField() {
			if f := typ.Field(i); f.IsExported() {
				want = append(want, typ.Name()+"."+f.Name)
			}
		}
	}
	for _, dir := range []string{"lib/environments", "tools/agenttoolset"} {
		for name, kind := range exported(t, filepath.Join(sdkDir(t), dir), false) {
			if kind == "func" {
				want = append(want, name)
			}
		}
	}
	for _, typ := range []reflect.Type{
		reflect.TypeFor[*environments.WorkPoller](), reflect.TypeFor[*environments.EnvironmentWorker](), reflect.TypeFor[*environments.SessionMemoryStores](),
		reflect.TypeFor[*anthropic.SessionToolRunner](), reflect.TypeFor[*agenttoolset.AgentToolContext](), reflect.TypeFor[*agenttoolset.BashSession](),
	} {
		for i := range typ.NumMethod() {
			want = append(want, typ.Elem().Name()+"."+typ.Method(i).Name)
		}
	}
	slices.Sort(want)
	for _, name := range slices.Compact(want) {
		if !there[name] {
			t.Errorf("%s does not have %s", libraryPage, name)
		}
	}
	if len(want) < 80 {
		t.Errorf("the SDK has %d options and helpers; are they all found?", len(want))
	}
}

// sdkDir is where the official SDK's source is.
func sdkDir(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-json", "github.com/anthropics/anthropic-sdk-go").Output()
	var m struct{ Dir string }
	if err != nil || json.Unmarshal(out, &m) != nil {
		t.Fatalf("go list: %v", err)
	}
	return m.Dir
}
