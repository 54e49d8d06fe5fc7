package policy

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// maxFile bounds a policy file in bytes.
const maxFile = 256 << 10

// Error is a policy that cannot be used. Where is FILE:LINE or a flag.
type Error struct{ Where, Problem, Cure string }

func (e *Error) Error() string { return e.Where + ": " + e.Problem + "; " + e.Cure }

// Read reads a policy file, YAML or JSON.
func Read(path string) (Policy, error) {
	text, err := readUpTo(path, maxFile+1)
	if err != nil {
		return Policy{}, &Error{path, "the policy cannot be read: " + err.Error(), "name a file that this user can read"}
	}
	return Parse(path, text)
}

// readUpTo reads a file, or as much of it. The error does not repeat its name.
func readUpTo(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err == nil {
		defer f.Close()
		var text []byte
		if text, err = io.ReadAll(io.LimitReader(f, most)); err == nil {
			return text, nil
		}
	}
	if pe, ok := errors.AsType[*os.PathError](err); ok {
		err = pe.Err
	}
	return nil, err
}

// Parse reads the text of a policy. name is its file's, for errors, all of
// which are *Error.
func Parse(name string, text []byte) (Policy, error) {
	var p Policy
	if len(text) > maxFile {
		return p, &Error{name, fmt.Sprintf("the policy is larger than %d KiB", maxFile>>10), "a policy is a short file: look whether this is the right one"}
	}
	root, err := document(name, text)
	if root == nil || err != nil {
		return p, err
	}
	v := value{where: name, node: root}
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return p, nil
	}
	if err := v.policy(&p); err != nil {
		return Policy{}, err
	}
	return p, nil
}

// document is the one document of a file, nil when there is none.
func document(name string, text []byte) (*yaml.Node, error) {
	loader, err := yaml.NewLoader(strings.NewReader(string(text)))
	if err != nil {
		return nil, syntax(name, err)
	}
	var doc, more yaml.Node
	if err := loader.Load(&doc); err != nil {
		if err == io.EOF {
			return nil, nil
		}
		return nil, syntax(name, err)
	}
	if err := loader.Load(&more); err != io.EOF {
		if err == nil {
			err = errors.New("it has a second document")
		}
		return nil, syntax(name, err)
	}
	if doc.Kind == yaml.DocumentNode && len(doc.Content) == 1 {
		return doc.Content[0], nil
	}
	return &doc, nil
}

// Override sets one value as a flag does. key is as in a file, with dots
// between levels.
func (p *Policy) Override(flag, key, text string) error {
	v := value{where: flag, node: &yaml.Node{Kind: yaml.ScalarNode, Value: text}, flag: true}
	if name, ok := strings.CutPrefix(key, "limits."); ok {
		return v.as(key).limit(p, name)
	}
	return v.as(key).override(p)
}

// AllowHosts replaces the policy's network by these hosts.
func (p *Policy) AllowHosts(flag string, hosts []string) error {
	list := &yaml.Node{Kind: yaml.SequenceNode}
	for _, h := range hosts {
		list.Content = append(list.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: h})
	}
	v := value{where: flag, node: list, flag: true}
	var n Network
	if err := v.as("network.allow").allow(&n); err != nil {
		return err
	}
	p.Network = n
	return p.reach(v)
}

// syntax is an error of the YAML reader in our form.
func syntax(name string, err error) error {
	text := strings.Join(strings.Fields(err.Error()), " ")
	if le, ok := errors.AsType[*yaml.LoadError](err); ok {
		if le.Mark.Line > 0 {
			name += ":" + strconv.Itoa(le.Mark.Line)
		}
		if le.Message != "" {
			text = le.Message
		}
	}
	return &Error{name, "this is not YAML or JSON (" + text + ")", "correct it; docs/policy.md has an example"}
}

// value is a node of the file with the path of keys that leads to it, or a
// flag's argument.
type value struct {
	where string // the file, or the flag
	path  string
	node  *yaml.Node
	flag  bool
}

func (v value) as(path string) value { v.path = path; return v }

func (v value) child(key string, n *yaml.Node) value {
	c := value{where: v.where, node: n, path: key}
	if v.path != "" {
		c.path = v.path + "." + key
	}
	return c
}

// bad refuses the value.
func (v value) bad(cure, problem string, args ...any) error {
	at := v.where
	if !v.flag && v.node.Line > 0 {
		at += ":" + strconv.Itoa(v.node.Line)
	}
	problem = fmt.Sprintf(problem, args...)
	if v.path != "" && !v.flag {
		problem = v.path + " " + problem
	} else if v.flag {
		problem = "the value " + problem
	}
	return &Error{at, problem, cure}
}

// field is a key of a mapping and what reads it.
type field struct {
	key  string
	read func(value) error
}

// mapping reads a mapping of known keys, each at most once.
func (v value) mapping(fields ...field) error {
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.key
	}
	if err := v.kind(yaml.MappingNode, "a mapping of "+strings.Join(names, ", ")); err != nil {
		return err
	}
	return v.each(func(key string, c value) error {
		for _, f := range fields {
			if f.key == key {
				return f.read(c)
			}
		}
		cure := "known here: " + strings.Join(names, ", ")
		if near := nearest(key, names); near != "" {
			cure = "did you mean " + near + "?"
		}
		c.path = v.path
		if v.path == "" {
			return c.bad(cure, "unknown key %s", quote(key))
		}
		return c.bad(cure, "has an unknown key %s", quote(key))
	})
}

// each visits the entries of a mapping.
func (v value) each(visit func(key string, c value) error) error {
	seen := map[string]bool{}
	for i := 0; i+1 < len(v.node.Content); i += 2 {
		k, n := v.node.Content[i], v.node.Content[i+1]
		at := v
		at.node = k
		if k.Kind != yaml.ScalarNode || k.Tag == "!!merge" || k.Anchor != "" {
			return at.bad("write plain keys", "has a key that is no plain word")
		}
		c := v.child(k.Value, n)
		if seen[k.Value] {
			return at.bad("keep one of them", "has %s twice", quote(k.Value))
		}
		seen[k.Value] = true
		if n.Line == 0 {
			n.Line = k.Line
		}
		if err := visit(k.Value, c); err != nil {
			return err
		}
	}
	return nil
}

// list visits the elements of a list; one plain value is a list of one.
func (v value) list(most int, what string, visit func(value) error) error {
	if v.node.Kind == yaml.ScalarNode && v.node.Tag != "!!null" {
		return visit(v)
	}
	if err := v.kind(yaml.SequenceNode, "a list of "+what); err != nil {
		return err
	}
	if len(v.node.Content) > most {
		return v.bad("shorten the list", "has %d entries, more than %d", len(v.node.Content), most)
	}
	for i, n := range v.node.Content {
		c := v
		c.node = n
		if !v.flag {
			c.path += "[" + strconv.Itoa(i) + "]"
		}
		if err := visit(c); err != nil {
			return err
		}
	}
	return nil
}

// kind checks a node's form. References within the file are no part of the
// form: a short file can stand for a very long one by them.
func (v value) kind(want yaml.Kind, what string) error {
	switch {
	case v.node.Kind == yaml.AliasNode || v.node.Anchor != "":
		return v.bad("write the value out", "refers to another place by & or *")
	case v.node.Kind != want || v.node.Tag == "!!null":
		return v.bad("give "+what, "is %s", shape(v.node))
	}
	return nil
}

func shape(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.Tag == "!!null":
		return "empty"
	}
	return quote(n.Value)
}

// text is a scalar as it is written.
func (v value) text(what string) (string, error) {
	if err := v.kind(yaml.ScalarNode, what); err != nil {
		return "", err
	}
	if v.node.Value == "" {
		return "", v.bad("give "+what, "is empty")
	}
	return v.node.Value, nil
}

// quote shows a value on one line, shortened.
func quote(s string) string {
	if r := []rune(s); len(r) > 60 {
		s = string(r[:60]) + "…"
	}
	return strconv.Quote(s)
}

// nearest is the name that differs from word by the fewest letters, if they
// are few.
func nearest(word string, names []string) string {
	best, least := "", 1+len(word)/3
	for _, n := range names {
		if d := distance(strings.ToLower(word), n); d <= least {
			best, least = n, d-1
		}
	}
	return best
}

// distance is how many letters must be put in, taken out or changed.
func distance(a, b string) int {
	if len(a) > 64 {
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
