package mcp

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"unicode/utf8"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/toolset"
)

// Bounds of a result and of a definition.
const (
	maxText        = 100 << 10 // of all texts together
	maxBlocks      = 32
	maxPicture     = 3_932_160 // bytes of an image, as for the read tool
	maxMedia       = 6 << 20   // of all images and documents together
	maxDescription = 16 << 10
	maxSchema      = 64 << 10
)

// blocks makes of a server's result what a model may be given. What has no
// form there is named in its place.
func blocks(r *sdk.CallToolResult) ([]api.Block, bool) {
	c := collector{text: maxText, media: maxMedia}
	for i, part := range r.Content {
		if i == maxBlocks {
			c.say(fmt.Sprintf("[%d more parts are left out]", len(r.Content)-i))
			break
		}
		switch p := part.(type) {
		case *sdk.TextContent:
			c.say(p.Text)
		case *sdk.ImageContent:
			c.show(p.Data, p.MIMEType, "an image")
		case *sdk.AudioContent:
			c.say(fmt.Sprintf("[audio (%.100s, %d bytes), which cannot be shown]", p.MIMEType, len(p.Data)))
		case *sdk.ResourceLink:
			c.say(strings.TrimSpace(fmt.Sprintf("[resource %s] %s %s", p.URI, p.Name, p.Description)))
		case *sdk.EmbeddedResource:
			switch {
			case p.Resource == nil:
			case len(p.Resource.Blob) > 0:
				c.show(p.Resource.Blob, p.Resource.MIMEType, "the resource "+p.Resource.URI)
			default:
				c.say(fmt.Sprintf("[resource %s]\n%s", p.Resource.URI, p.Resource.Text))
			}
		default:
			c.say("[a part of a kind that cannot be shown]")
		}
	}
	if len(r.Content) == 0 && r.StructuredContent != nil {
		if b, err := json.Marshal(r.StructuredContent); err == nil {
			c.say(string(b))
		}
	}
	return c.blocks, r.IsError
}

// collector collects blocks within bounds.
type collector struct {
	blocks      []api.Block
	text, media int // what is left
}

func (c *collector) say(s string) {
	s = clean(s)
	if s == "" {
		return
	}
	if kept := cut(s, c.text); len(kept) < len(s) {
		s = kept + fmt.Sprintf("\n[%d bytes are left out]", len(s)-len(kept))
		c.text = 0
	} else {
		c.text -= len(s)
	}
	c.blocks = append(c.blocks, api.Text(s))
}

// show gives an image or a PDF, by what it is and not by what it is said to be.
func (c *collector) show(data []byte, said, what string) {
	kind := http.DetectContentType(data)
	block := api.Block{Type: "image", Source: &api.Source{Type: "base64", MediaType: kind}}
	switch kind {
	case "image/png", "image/jpeg", "image/gif", "image/webp":
		if len(data) > maxPicture {
			c.say(fmt.Sprintf("[%s (%s, %d bytes), too large to be shown]", what, kind, len(data)))
			return
		}
	case "application/pdf":
		block.Type = "document"
	default:
		c.say(fmt.Sprintf("[%s (said to be %.100s, %d bytes), which cannot be shown]", what, said, len(data)))
		return
	}
	if c.media -= len(data); c.media < 0 {
		c.media = 0
		c.say(fmt.Sprintf("[%s (%s, %d bytes), left out: the result holds too much]", what, kind, len(data)))
		return
	}
	block.Source.Data = base64.StdEncoding.EncodeToString(data)
	c.blocks = append(c.blocks, block)
}

// definition is a tool as an agent is told of it; why says what keeps it from
// being one.
func definition(t *sdk.Tool, prefix string) (d toolset.Definition, why string) {
	d = toolset.Definition{Name: prefix + t.Name, Description: clean(t.Description)}
	if d.Description == "" {
		d.Description = clean(t.Title)
	}
	if d.Description == "" {
		d.Description = d.Name
	}
	schema, err := json.Marshal(t.InputSchema)
	var top struct {
		Type string `json:"type"`
	}
	switch {
	case !nameForm.MatchString(d.Name):
		return d, "agents' tools have names of 1 to 128 letters, digits, _ and -"
	case len(d.Description) > maxDescription:
		return d, fmt.Sprintf("its description is longer than %d KiB", maxDescription>>10)
	case err != nil || json.Unmarshal(schema, &top) != nil || top.Type != "object":
		return d, "its input is no JSON Schema of type object"
	case len(schema) > maxSchema:
		return d, fmt.Sprintf("its schema is larger than %d KiB", maxSchema>>10)
	}
	d.InputSchema = schema
	return d, ""
}

// clean makes a text fit for the wire: UTF-8 without NUL.
func clean(s string) string {
	return strings.TrimRight(strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", "\uFFFD"), "\uFFFD"), "\n")
}

// cut is the beginning of a text, of whole characters.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
