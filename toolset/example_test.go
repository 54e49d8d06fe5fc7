package toolset_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"

	"github.com/berthdev/berth/internal/sandbox/tree"
	"github.com/berthdev/berth/toolset"
)

// desk is the smallest host there is: a fresh bash for each command, in a
// directory of its own.
type desk struct{ dir, inside string }

func (d desk) Files() toolset.Files {
	files, err := tree.Open(tree.Config{Root: d.dir, Workdir: d.inside, UID: -1, GID: -1})
	if err != nil {
		return nil
	}
	return files
}

func (d desk) Workdir() string               { return d.inside }
func (d desk) Restart(context.Context) error { return nil }

func (d desk) Bash(ctx context.Context, c toolset.Command) (toolset.Result, error) {
	cmd := exec.CommandContext(ctx, "bash", "-c", c.Text)
	cmd.Dir = d.dir + d.inside
	out, _ := cmd.CombinedOutput()
	return toolset.Result{Head: out, ExitCode: cmd.ProcessState.ExitCode(), End: toolset.Exited}, nil
}

func Example() {
	dir, err := os.MkdirTemp("", "desk")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	set := toolset.New(desk{dir, "/workspace"}, toolset.Options{})
	fmt.Println(set.Names(), set.Has("web_search"))

	for _, call := range []struct{ tool, input string }{
		{"write", `{"file_path":"notes/a.txt","content":"one\ntwo\n"}`},
		{"edit", `{"file_path":"notes/a.txt","old_string":"two","new_string":"2"}`},
		{"read", `{"file_path":"notes/a.txt","view_range":[2,2]}`},
		{"grep", `{"pattern":"^o"}`},
		{"glob", `{"pattern":"**/*.txt"}`},
		{"bash", `{"command":"wc -l < notes/a.txt; exit 3"}`},
		{"read", `{"file_path":"/etc/passwd"}`},
	} {
		content, isError := set.Run(context.Background(), "sevt_1", call.tool, json.RawMessage(call.input))
		fmt.Printf("%s: %q %v\n", call.tool, content[0].Text, isError)
	}
	// Output:
	// [bash read write edit glob grep] false
	// write: "wrote 8 bytes to notes/a.txt" false
	// edit: "edited notes/a.txt (1 replacement(s))" false
	// read: "2" false
	// grep: "/workspace/notes/a.txt:1:one" false
	// glob: "/workspace/notes/a.txt" false
	// bash: "2\nexit code: 3" true
	// read: "read: path \"/etc/passwd\" is outside the session's working directory and its other permitted directories" true
}

func ExampleDefinitions() {
	for _, d := range toolset.Definitions() {
		var schema struct {
			Type     string
			Required []string
		}
		if err := json.Unmarshal(d.InputSchema, &schema); err != nil {
			panic(err)
		}
		fmt.Println(d.Name, schema.Type, schema.Required)
	}
	// Output:
	// bash object []
	// read object [file_path]
	// write object [file_path content]
	// edit object [file_path old_string new_string]
	// glob object [pattern]
	// grep object [pattern]
}
