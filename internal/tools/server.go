package tools

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/berthdev/berth/internal/mcp"
)

// declaredServer is an MCP server as it is written.
type declaredServer struct {
	Name    string            `yaml:"name"`
	Command []string          `yaml:"command"`
	Env     map[string]string `yaml:"env"`
	Prefix  *string           `yaml:"prefix"`
	Tools   []string          `yaml:"tools"`
	Timeout string            `yaml:"timeout"`
}

var (
	serverForm   = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
	prefixForm   = regexp.MustCompile(`^[A-Za-z0-9_-]{0,64}$`)
	variableForm = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
)

func (d declaredServer) server() (*mcp.Server, error) {
	s := &mcp.Server{Name: d.Name, Command: d.Command, Env: d.Env, Prefix: d.Name + "_", Tools: d.Tools}
	if d.Prefix != nil {
		s.Prefix = *d.Prefix
	}
	switch {
	case !serverForm.MatchString(d.Name):
		return nil, fmt.Errorf("name is %q: it has 1 to 64 letters, digits, _ and -", d.Name)
	case !prefixForm.MatchString(s.Prefix):
		return nil, fmt.Errorf("prefix is %q: it has up to 64 letters, digits, _ and -", s.Prefix)
	case d.Tools != nil && len(d.Tools) == 0:
		return nil, errors.New("tools is empty: leave it out for all of the server's")
	case s.Prefix == "" && d.Tools == nil:
		return nil, errors.New("without a prefix its tools have to be named under tools: nobody else's calls are answered by mistake")
	}
	for _, t := range d.Tools {
		if !nameForm.MatchString(s.Prefix + t) {
			return nil, fmt.Errorf("tools has %q: with the prefix a name has 1 to 128 letters, digits, _ and -", t)
		}
	}
	for name, value := range d.Env {
		switch {
		case !variableForm.MatchString(name):
			return nil, fmt.Errorf("env has %q, which is no name of a variable", name)
		case strings.IndexByte(value, 0) >= 0:
			return nil, fmt.Errorf("env: %s has a NUL in it", name)
		}
	}
	if err := command(d.Command); err != nil {
		return nil, err
	}
	var err error
	s.Timeout, err = limit(d.Timeout)
	return s, err
}

// clash says what else in the file has a name of the server's.
func (f *File) clash(s *mcp.Server) error {
	for _, t := range f.Tools {
		if s.Owns(t.Name) {
			return fmt.Errorf("the tool %q has a name of this server's; rename it, or give the server another prefix", t.Name)
		}
	}
	for _, o := range f.Servers {
		switch {
		case o.Name == s.Name:
			return errors.New("its name is there twice; rename one")
		case overlap(o, s) || overlap(s, o):
			return fmt.Errorf("%s may have tools of the same names; give one of them another prefix", o.Name)
		}
	}
	return nil
}

// overlap says whether a name of a's may be b's.
func overlap(a, b *mcp.Server) bool {
	if a.Tools == nil {
		return b.Tools == nil && strings.HasPrefix(a.Prefix, b.Prefix)
	}
	for _, t := range a.Tools {
		if b.Owns(a.Prefix + t) {
			return true
		}
	}
	return false
}
