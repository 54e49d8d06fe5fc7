package mcp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/toolset"
)

// Bounds of a session.
const (
	startTime  = 60 * time.Second // of a start, up to the list of tools
	maxFailed  = 5                // starts and crashes in a row; then one a minute
	failedRest = time.Minute
	maxPages   = 64 // of the list of tools
	maxTools   = 256
	maxInput   = 1 << 20
	// version is the newest that begins with initialize. Later ones begin with
	// a request that servers of today may never answer.
	version = "2025-11-25"
)

// Session is a server in one sandbox: started when it is first needed, and
// again when it is needed after its end. It ends with the sandbox. One
// goroutine uses it.
type Session struct {
	server *Server
	host   toolset.Host
	now    *running // nil while none runs
	failed int      // in a row
	last   time.Time
	// patience is startTime, less in tests.
	patience time.Duration
}

// running is a server that has told its tools.
type running struct {
	pipe   *pipe
	client *sdk.ClientSession
	tools  []*sdk.Tool
}

// In makes the server's session of a sandbox. Nothing is started yet.
func (s *Server) In(h toolset.Host) *Session {
	return &Session{server: s, host: h, patience: startTime}
}

// Call answers a call of a tool, by the name that the agent knows it by. A call
// that is cut off, by ctx or by its limit, ends the server: nothing of it goes
// on unseen.
func (s *Session) Call(ctx context.Context, name string, input []byte) ([]api.Block, bool) {
	if len(input) > maxInput {
		return failed("%s was not run: its input is larger than %d KiB", name, maxInput>>10)
	}
	var object map[string]json.RawMessage
	if json.Unmarshal(input, &object) != nil || object == nil {
		return failed("%s was not run: the input is not a JSON object", name)
	}
	if s.failed >= maxFailed && time.Since(s.last) < failedRest {
		return failed("%s was not run: the MCP server %s has failed %d times in a row. It is tried again a minute after the last.", name, s.server.Name, s.failed)
	}
	tool := strings.TrimPrefix(name, s.server.Prefix)
	if err := s.begin(ctx); err != nil {
		if ctx.Err() != nil {
			return failed("%s was interrupted before it ran.", name)
		}
		return failed("%s was not run: the MCP server %s could not be started: %s", name, s.server.Name, s.blame(err))
	}
	if !s.now.has(tool) {
		return failed("%s was not run: the MCP server %s has no tool %q. It has: %s", name, s.server.Name, tool, s.now.names())
	}
	limited, cancel := context.WithTimeout(ctx, s.server.Timeout)
	defer cancel()
	result, err := s.now.client.CallTool(limited, &sdk.CallToolParams{Name: tool, Arguments: json.RawMessage(input)})
	var refused *jsonrpc.Error
	switch {
	case err == nil:
		s.failed = 0
		return blocks(result)
	case ctx.Err() != nil:
		s.Close()
		return failed("%s was interrupted; it may have done part of its work.", name)
	case limited.Err() != nil:
		s.Close()
		return failed("%s did not end within %s; it may have done part of its work. The MCP server %s was ended, the next call starts it again.", name, s.server.Timeout, s.server.Name)
	case errors.As(err, &refused) && s.now.pipe.over() == nil:
		s.failed = 0
		return failed("%s failed: %s (%d)", name, cut(clean(refused.Message), 4<<10), refused.Code)
	}
	why := s.blame(err)
	s.fell()
	return failed("%s was cut off, and may have done part of its work: the MCP server %s ended: %s\nThe next call starts it again.", name, s.server.Name, why)
}

// List gives the server's tools as an agent may be given them; left are those
// that it cannot, with the reason.
func (s *Session) List(ctx context.Context) (all []toolset.Definition, left []string, err error) {
	if err := s.begin(ctx); err != nil {
		return nil, nil, fmt.Errorf("the MCP server %s could not be started: %s", s.server.Name, s.blame(err))
	}
	for _, t := range s.now.tools {
		d, why := definition(t, s.server.Prefix)
		if why != "" {
			left = append(left, fmt.Sprintf("%.140q: %s", t.Name, why))
			continue
		}
		all = append(all, d)
	}
	for _, want := range s.server.Tools {
		if !s.now.has(want) {
			left = append(left, fmt.Sprintf("%q: the server has no such tool", want))
		}
	}
	return all, left, nil
}

// Close ends the server, if one runs.
func (s *Session) Close() {
	if s.now != nil {
		s.now.pipe.Close()
		s.now = nil
	}
}

// fell notes that the server has failed.
func (s *Session) fell() {
	s.Close()
	s.failed, s.last = s.failed+1, time.Now()
}

// blame words why the server is gone: by its own end where there is one.
func (s *Session) blame(err error) string {
	if s.now != nil {
		if over := s.now.pipe.over(); over != nil {
			err = over
		}
	}
	var end *toolset.ProcessEnd
	switch {
	case errors.As(err, &end):
		said := strings.TrimSpace(clean(string(end.Errors)))
		if said != "" {
			said = "\n" + said
		}
		if end.Reason != "" {
			return end.Reason + said
		}
		return fmt.Sprintf("status %d%s", end.Code, said)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("it did not answer within %s", s.patience)
	}
	return cut(clean(err.Error()), 1<<10)
}

// begin sees to it that a server runs, and that its list of tools is the
// present one. One that the caller broke off is no failure of the server.
func (s *Session) begin(asked context.Context) error {
	ctx, cancel := context.WithTimeout(asked, s.patience)
	defer cancel()
	if s.now != nil && s.now.pipe.over() == nil {
		if !s.now.pipe.allow() {
			return nil
		}
		err := s.now.list(ctx, s.server)
		if err == nil {
			return nil
		}
	}
	s.Close()
	proc, err := toolset.Start(ctx, s.host, toolset.Program{Args: s.server.Command, Env: s.server.Env})
	if err != nil {
		if asked.Err() == nil {
			s.fell()
		}
		return err
	}
	r := &running{pipe: newPipe(proc)}
	client := sdk.NewClient(&sdk.Implementation{Name: "berth", Version: "1"}, &sdk.ClientOptions{Capabilities: &sdk.ClientCapabilities{}})
	r.client, err = client.Connect(ctx, r.pipe, &sdk.ClientSessionOptions{ProtocolVersion: version})
	if err == nil {
		err = r.list(ctx, s.server)
	}
	if err != nil {
		if over := r.pipe.over(); over != nil && ctx.Err() == nil {
			err = over
		}
		r.pipe.Close()
		if asked.Err() == nil {
			s.fell()
		}
		return err
	}
	s.now = r
	return nil
}

// list asks for the tools and keeps those that are to be used.
func (r *running) list(ctx context.Context, s *Server) error {
	r.tools = nil
	cursor := ""
	for range maxPages {
		page, err := r.client.ListTools(ctx, &sdk.ListToolsParams{Cursor: cursor})
		if err != nil {
			return err
		}
		for _, t := range page.Tools {
			if t == nil || !s.takes(t.Name) || r.has(t.Name) {
				continue
			}
			if len(r.tools) == maxTools {
				return fmt.Errorf("it has more than %d tools, and none are named under tools in its declaration", maxTools)
			}
			r.tools = append(r.tools, t)
		}
		if cursor = page.NextCursor; cursor == "" {
			return nil
		}
	}
	return fmt.Errorf("its list of tools has more than %d pages", maxPages)
}

func (r *running) has(tool string) bool {
	for _, t := range r.tools {
		if t.Name == tool {
			return true
		}
	}
	return false
}

func (r *running) names() string {
	var names []string
	for _, t := range r.tools {
		names = append(names, t.Name)
	}
	if len(names) == 0 {
		return "none"
	}
	return cut(clean(strings.Join(names, ", ")), 2<<10)
}

func failed(format string, args ...any) ([]api.Block, bool) {
	return []api.Block{api.Text(fmt.Sprintf(format, args...))}, true
}
