// Package tools answers calls of the custom tools that an operator declares in
// a file: by commands in the session's sandbox or on the worker's host, and by
// MCP servers in the sandbox.
package tools

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/berthdev/berth/internal/mcp"
	"github.com/berthdev/berth/toolset"
)

// Bounds of a file.
const (
	maxFile        = 256 << 10
	maxTools       = 128
	defaultTimeout = 120 * time.Second
	maxTimeout     = 2 * time.Hour
)

// Error is a file of tools that cannot be used.
type Error struct{ Where, Problem, Cure string }

func (e *Error) Error() string { return e.Where + ": " + e.Problem + "; " + e.Cure }

// File is what a file declares.
type File struct {
	Tools   []Tool
	Servers []*mcp.Server
}

// Tool is a custom tool that a command answers.
type Tool struct {
	Name        string
	Description string
	Schema      json.RawMessage // of the input, nil for none
	Command     []string        // argv
	OnHost      bool            // run beside the worker, not in the sandbox
	Timeout     time.Duration

	required []string
	kinds    map[string][]string // the JSON types of the input's properties
}

// declared is a tool as it is written.
type declared struct {
	Name        string         `yaml:"name"`
	Description string         `yaml:"description"`
	InputSchema map[string]any `yaml:"input_schema"`
	Command     []string       `yaml:"command"`
	On          string         `yaml:"on"`
	Timeout     string         `yaml:"timeout"`
}

// Read reads a file of tools, YAML or JSON. Its errors are *Error.
func Read(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, &Error{path, "the tools cannot be read: " + plain(err), "name a file that this user can read"}
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, &Error{path, "the tools cannot be read: " + plain(err), "name a file that this user can read"}
	}
	return Parse(path, text)
}

func plain(err error) string {
	if pe, ok := errors.AsType[*os.PathError](err); ok {
		err = pe.Err
	}
	return err.Error()
}

// Parse reads the text of a file. name is the file's, for errors.
func Parse(name string, text []byte) (*File, error) {
	if len(text) > maxFile {
		return nil, &Error{name, fmt.Sprintf("it is larger than %d KiB", maxFile>>10), "look whether this is the right file"}
	}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	var file struct {
		Tools   []declared       `yaml:"tools"`
		Servers []declaredServer `yaml:"mcp_servers"`
	}
	err := dec.Decode(&file)
	if err == nil && dec.Decode(&struct{}{}) != io.EOF {
		err = errors.New("it has a second document")
	}
	if err != nil {
		return nil, &Error{name, "this is no list of tools (" + strings.Join(strings.Fields(err.Error()), " ") + ")", "correct it; docs/tools.md has an example"}
	}
	if n := len(file.Tools) + len(file.Servers); n == 0 || n > maxTools {
		return nil, &Error{name, fmt.Sprintf("it has %d tools and MCP servers", n), fmt.Sprintf("give 1 to %d under tools: and mcp_servers:", maxTools)}
	}
	all := &File{}
	for i, d := range file.Tools {
		t, err := d.tool()
		if err == nil && slices.ContainsFunc(all.Tools, func(o Tool) bool { return o.Name == t.Name }) {
			err = errors.New("its name is there twice; rename one")
		}
		if err != nil {
			return nil, &Error{fmt.Sprintf("%s: tools[%d]", name, i), err.Error(), "docs/tools.md says what each key takes"}
		}
		all.Tools = append(all.Tools, t)
	}
	for i, d := range file.Servers {
		s, err := d.server()
		if err == nil {
			err = all.clash(s)
		}
		if err != nil {
			return nil, &Error{fmt.Sprintf("%s: mcp_servers[%d]", name, i), err.Error(), "docs/tools.md says what each key takes"}
		}
		all.Servers = append(all.Servers, s)
	}
	return all, nil
}

// Definitions are the tools that commands answer as agents are told of them.
func (f *File) Definitions() ([]toolset.Definition, error) {
	var all []toolset.Definition
	for _, t := range f.Tools {
		d := toolset.Definition{Name: t.Name, Description: t.Description, InputSchema: t.Schema}
		if d.Description == "" {
			return nil, &Error{"the tool " + t.Name, "it has no description", "give it one: a model has to know when to use it"}
		}
		if d.InputSchema == nil {
			d.InputSchema = json.RawMessage(`{"type":"object"}`)
		}
		all = append(all, d)
	}
	return all, nil
}

var nameForm = regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`)

func (d declared) tool() (Tool, error) {
	t := Tool{Name: d.Name, Description: d.Description, Command: d.Command, OnHost: d.On == "host"}
	switch {
	case !nameForm.MatchString(d.Name):
		return t, fmt.Errorf("name is %q: it has 1 to 128 letters, digits, _ and -", d.Name)
	case d.On != "" && d.On != "sandbox" && d.On != "host":
		return t, fmt.Errorf("on is %q: it is sandbox or host", d.On)
	}
	if err := command(d.Command); err != nil {
		return t, err
	}
	var err error
	if t.Timeout, err = limit(d.Timeout); err != nil {
		return t, err
	}
	return t, t.schema(d.InputSchema)
}

func command(argv []string) error {
	switch {
	case len(argv) == 0 || argv[0] == "":
		return errors.New("command is missing: it is a list, the program first")
	case slices.ContainsFunc(argv, func(s string) bool { return strings.IndexByte(s, 0) >= 0 }):
		return errors.New("command has a NUL in it")
	}
	return nil
}

func limit(text string) (time.Duration, error) {
	if text == "" {
		return defaultTimeout, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < time.Second || d > maxTimeout {
		return 0, fmt.Errorf("timeout is %q: it is a duration from 1s to %s", text, maxTimeout)
	}
	return d, nil
}

// schema takes from a JSON Schema what is checked: the required properties and
// the types of those at the top.
func (t *Tool) schema(s map[string]any) error {
	if s == nil {
		return nil
	}
	raw, err := json.Marshal(s)
	if err != nil {
		return errors.New("input_schema has keys that are no text")
	}
	var top struct {
		Type       string   `json:"type"`
		Required   []string `json:"required"`
		Properties map[string]struct {
			Type any `json:"type"`
		} `json:"properties"`
	}
	if err := json.Unmarshal(raw, &top); err != nil || top.Type != "object" {
		return errors.New("input_schema is no JSON Schema of type object")
	}
	t.Schema = raw
	t.required, t.kinds = top.Required, map[string][]string{}
	for name, p := range top.Properties {
		switch kind := p.Type.(type) {
		case string:
			t.kinds[name] = []string{kind}
		case []any:
			for _, k := range kind {
				t.kinds[name] = append(t.kinds[name], fmt.Sprint(k))
			}
		}
	}
	return nil
}

// check says what is wrong with an input, "" for nothing.
func (t *Tool) check(input []byte) string {
	var in map[string]json.RawMessage
	if json.Unmarshal(input, &in) != nil || in == nil {
		return "the input is not a JSON object"
	}
	for _, name := range t.required {
		if _, ok := in[name]; !ok {
			return fmt.Sprintf("the input lacks %q", name)
		}
	}
	for name, raw := range in {
		if kinds := t.kinds[name]; len(kinds) > 0 && !slices.ContainsFunc(kinds, func(k string) bool { return is(k, raw) }) {
			return fmt.Sprintf("%q is not of type %s", name, strings.Join(kinds, " or "))
		}
	}
	return ""
}

// is says whether a JSON value is of a type. One that is unknown here fits.
func is(kind string, raw json.RawMessage) bool {
	c := raw[0]
	switch kind {
	case "string":
		return c == '"'
	case "object":
		return c == '{'
	case "array":
		return c == '['
	case "boolean":
		return c == 't' || c == 'f'
	case "null":
		return c == 'n'
	case "number":
		return c == '-' || c >= '0' && c <= '9'
	case "integer":
		var f float64
		return json.Unmarshal(raw, &f) == nil && f == float64(int64(f)) && (c == '-' || c >= '0' && c <= '9')
	}
	return true
}
