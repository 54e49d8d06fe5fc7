// Command server is an MCP server for tests, over its standard streams.
package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

type text struct {
	Text string `json:"text" jsonschema:"what to say"`
}

type nothing struct{}

// png is the smallest there is: one point.
var png = []byte("\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x06\x00\x00\x00\x1f\x15\xc4\x89\x00\x00\x00\rIDATx\x9cc\xf8\xff\xff?\x00\x05\xfe\x02\xfe\xa75\x81\x84\x00\x00\x00\x00IEND\xaeB`\x82")

func main() {
	s := mcp.NewServer(&mcp.Implementation{Name: "test", Version: "1"}, nil)
	calls := 0
	said := func(parts ...mcp.Content) (*mcp.CallToolResult, any, error) {
		return &mcp.CallToolResult{Content: parts}, nil, nil
	}
	mcp.AddTool(s, &mcp.Tool{Name: "echo", Description: "Says what it is told."}, func(_ context.Context, _ *mcp.CallToolRequest, in text) (*mcp.CallToolResult, any, error) {
		calls++
		return said(&mcp.TextContent{Text: fmt.Sprintf("%d %s", calls, in.Text)})
	})
	mcp.AddTool(s, &mcp.Tool{Name: "around", Description: "Says what is around it."}, func(context.Context, *mcp.CallToolRequest, nothing) (*mcp.CallToolResult, any, error) {
		dir, _ := os.Getwd()
		return said(&mcp.TextContent{Text: dir + "\n" + strings.Join(os.Environ(), "\n")})
	})
	mcp.AddTool(s, &mcp.Tool{Name: "show", Description: "Shows things."}, func(context.Context, *mcp.CallToolRequest, nothing) (*mcp.CallToolResult, any, error) {
		return said(&mcp.ImageContent{Data: png, MIMEType: "image/png"}, &mcp.ImageContent{Data: []byte("no picture"), MIMEType: "image/png"},
			&mcp.AudioContent{Data: []byte("x"), MIMEType: "audio/wav"},
			&mcp.EmbeddedResource{Resource: &mcp.ResourceContents{URI: "file:///a", Text: "content"}},
			&mcp.EmbeddedResource{Resource: &mcp.ResourceContents{URI: "file:///b", Blob: []byte("%PDF-1.7 x"), MIMEType: "application/pdf"}},
			&mcp.ResourceLink{URI: "file:///c", Name: "c", Description: "a link"})
	})
	mcp.AddTool(s, &mcp.Tool{Name: "number", Description: "Gives a structure."}, func(context.Context, *mcp.CallToolRequest, nothing) (*mcp.CallToolResult, struct {
		N int `json:"n"`
	}, error) {
		return nil, struct {
			N int `json:"n"`
		}{7}, nil
	})
	mcp.AddTool(s, &mcp.Tool{Name: "refuse", Description: "Fails."}, func(context.Context, *mcp.CallToolRequest, nothing) (*mcp.CallToolResult, any, error) {
		return nil, nil, fmt.Errorf("not today")
	})
	mcp.AddTool(s, &mcp.Tool{Name: "crash", Description: "Ends the server."}, func(context.Context, *mcp.CallToolRequest, nothing) (*mcp.CallToolResult, any, error) {
		fmt.Fprintln(os.Stderr, "all is lost")
		os.Exit(3)
		return nil, nil, nil
	})
	mcp.AddTool(s, &mcp.Tool{Name: "wait", Description: "Never ends."}, func(ctx context.Context, _ *mcp.CallToolRequest, _ nothing) (*mcp.CallToolResult, any, error) {
		if err := os.WriteFile("waiting", nil, 0o644); err != nil {
			return nil, nil, err
		}
		select {}
	})
	mcp.AddTool(s, &mcp.Tool{Name: "grow", Description: "Adds the tool grown."}, func(context.Context, *mcp.CallToolRequest, nothing) (*mcp.CallToolResult, any, error) {
		mcp.AddTool(s, &mcp.Tool{Name: "grown", Description: "Was not there."}, func(context.Context, *mcp.CallToolRequest, nothing) (*mcp.CallToolResult, any, error) {
			return said(&mcp.TextContent{Text: "here"})
		})
		return said(&mcp.TextContent{Text: "grown"})
	})
	if err := s.Run(context.Background(), &mcp.StdioTransport{}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
