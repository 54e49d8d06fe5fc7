// Package mcp speaks to MCP servers that run inside sessions' sandboxes, over
// their standard streams, and answers custom tool calls by them. Whatever such
// a server says is a stranger's: every line, list and result is bounded.
package mcp

import (
	"regexp"
	"slices"
	"strings"
	"time"
)

// Server is a server as an operator declares it.
type Server struct {
	Name    string
	Command []string          // argv, in the sandbox
	Env     map[string]string // added to what the session's shell finds
	// Prefix is what names of its tools begin with for agents, and not for it.
	Prefix string
	// Tools are the only ones of its tools to use; nil for all.
	Tools   []string
	Timeout time.Duration // of a call
}

var nameForm = regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`)

// Owns says whether a custom tool of that name is the server's to answer. It
// needs no running server.
func (s *Server) Owns(name string) bool {
	tool, ok := strings.CutPrefix(name, s.Prefix)
	return ok && tool != "" && s.takes(tool)
}

// takes says whether a tool of the server is to be used.
func (s *Server) takes(tool string) bool { return s.Tools == nil || slices.Contains(s.Tools, tool) }
