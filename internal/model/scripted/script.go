package scripted

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	xjson "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Bounds of a script; what exceeds them is refused by Parse.
const (
	MaxBytes   = 4 << 20
	MaxTurns   = 10_000
	MaxTools   = 256 // of one turn
	MaxDelayMS = 10 * 60 * 1000
)

// Script is a written part: each model request plays the next turn.
type Script struct {
	Turns []Turn `json:"turns"`
}

// Turn is one answer: Thinking, then Text, then Tools, all optional. In Text,
// {{result N}} stands for the text of the Nth result (from 0) of the turn
// before.
type Turn struct {
	Text     string `json:"text,omitempty"`
	Thinking string `json:"thinking,omitempty"`
	Tools    []Tool `json:"tools,omitempty"`
	DelayMS  int    `json:"delay_ms,omitempty"` // pause before the answer
	Error    *Error `json:"error,omitempty"`
	Usage    *Usage `json:"usage,omitempty"`
}

// Tool is a tool use. Input is a JSON object; absent means {}.
type Tool struct {
	Name  string         `json:"name"`
	Input jsontext.Value `json:"input,omitempty"`
}

// Error is a provider's failure, played instead of the turn by its first Times
// tries. A bare string is a type.
type Error struct {
	Type         string `json:"type"`            // overloaded, rate_limit, api_error, invalid_request, billing, authentication (with or without _error), refusal
	When         string `json:"when,omitempty"`  // before (the default) or amid the stream
	Times        int    `json:"times,omitempty"` // 1 when absent; -1 for every try
	Message      string `json:"message,omitempty"`
	RetryAfterMS int    `json:"retry_after_ms,omitempty"`
}

func (e *Error) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	*e = Error{}
	if dec.PeekKind() == '"' {
		return xjson.UnmarshalDecode(dec, &e.Type)
	}
	type plain Error
	return xjson.UnmarshalDecode(dec, (*plain)(e))
}

// Usage is what the turn pretends to have used, in tokens.
type Usage struct {
	InputTokens              int64 `json:"input_tokens,omitempty"`
	OutputTokens             int64 `json:"output_tokens,omitempty"`
	CacheReadInputTokens     int64 `json:"cache_read_input_tokens,omitempty"`
	CacheCreationInputTokens int64 `json:"cache_creation_input_tokens,omitempty"`
}

// ParseError says where a script is wrong. Line counts from 1 within the
// script, 0 when it is about a field as a whole.
type ParseError struct {
	Line    int
	Field   string // dotted, e.g. turns[1].tools[0].name
	Problem string
}

func (e *ParseError) Error() string {
	var at []string
	if e.Line > 0 {
		at = append(at, "line "+strconv.Itoa(e.Line))
	}
	if e.Field != "" {
		at = append(at, e.Field)
	}
	if len(at) == 0 {
		return e.Problem
	}
	return strings.Join(at, ", ") + ": " + e.Problem
}

// Parse reads a script strictly: unknown fields, wrong types and what could
// never be played are a *ParseError.
func Parse(text []byte) (*Script, error) {
	if len(text) > MaxBytes {
		return nil, &ParseError{Problem: fmt.Sprintf("the script has %d bytes, more than %d", len(text), MaxBytes)}
	}
	var s Script
	if err := xjson.Unmarshal(text, &s, xjson.RejectUnknownMembers(true)); err != nil {
		return nil, readError(text, err)
	}
	if err := s.check(); err != nil {
		return nil, err
	}
	return &s, nil
}

func readError(text []byte, err error) error {
	line := func(offset int64) int {
		return 1 + strings.Count(string(text[:min(int(offset), len(text))]), "\n")
	}
	if se, ok := errors.AsType[*xjson.SemanticError](err); ok {
		problem := "has the wrong type"
		switch {
		case errors.Is(se.Err, xjson.ErrUnknownName):
			problem = "unknown field"
		case se.Err != nil:
			problem = se.Err.Error()
		}
		return &ParseError{Line: line(se.ByteOffset), Field: dotted(se.JSONPointer), Problem: problem}
	}
	if se, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		return &ParseError{Line: line(se.ByteOffset), Field: dotted(se.JSONPointer), Problem: "not valid JSON: " + se.Err.Error()}
	}
	return &ParseError{Line: line(int64(len(text))), Problem: "not valid JSON: " + err.Error()}
}

func dotted(p jsontext.Pointer) string {
	var b strings.Builder
	for tok := range p.Tokens() {
		if tok != "" && strings.Trim(tok, "0123456789") == "" {
			b.WriteString("[" + tok + "]")
			continue
		}
		if b.Len() > 0 {
			b.WriteByte('.')
		}
		b.WriteString(tok)
	}
	return b.String()
}

var resultMark = regexp.MustCompile(`\{\{ *result +([0-9]{1,6}) *\}\}`)

func (s *Script) check() error {
	wrong := func(field, format string, args ...any) error {
		return &ParseError{Field: field, Problem: fmt.Sprintf(format, args...)}
	}
	if len(s.Turns) == 0 {
		return wrong("turns", "a script needs at least one turn")
	}
	if len(s.Turns) > MaxTurns {
		return wrong("turns", "%d turns are more than %d", len(s.Turns), MaxTurns)
	}
	before := 0
	for i := range s.Turns {
		t := &s.Turns[i]
		at := fmt.Sprintf("turns[%d]", i)
		if t.DelayMS < 0 || t.DelayMS > MaxDelayMS {
			return wrong(at+".delay_ms", "must be between 0 and %d", MaxDelayMS)
		}
		if len(t.Tools) > MaxTools {
			return wrong(at+".tools", "%d tool uses are more than %d", len(t.Tools), MaxTools)
		}
		for j := range t.Tools {
			tool := &t.Tools[j]
			if tool.Name == "" || len(tool.Name) > 128 {
				return wrong(fmt.Sprintf("%s.tools[%d].name", at, j), "must have 1 to 128 characters")
			}
			if tool.Input == nil || tool.Input.Kind() == 'n' {
				tool.Input = jsontext.Value(`{}`)
			}
			if tool.Input.Kind() != '{' {
				return wrong(fmt.Sprintf("%s.tools[%d].input", at, j), "must be an object")
			}
		}
		for _, m := range resultMark.FindAllStringSubmatch(t.Text, -1) {
			if n, _ := strconv.Atoi(m[1]); n >= before {
				return wrong(at+".text", "%s: the turn before has %d tool uses", m[0], before)
			}
		}
		if e := t.Error; e != nil {
			if _, ok := failures[strings.TrimSuffix(e.Type, "_error")]; !ok {
				return wrong(at+".error.type", "unknown type %q; known are overloaded, rate_limit, api_error, invalid_request, billing, authentication and refusal", e.Type)
			}
			if e.When != "" && e.When != "before" && e.When != "amid" {
				return wrong(at+".error.when", "must be before or amid")
			}
			if e.Times < -1 || e.Times > 1000 {
				return wrong(at+".error.times", "must be between -1 and 1000")
			}
			if e.RetryAfterMS < 0 || e.RetryAfterMS > MaxDelayMS {
				return wrong(at+".error.retry_after_ms", "must be between 0 and %d", MaxDelayMS)
			}
		}
		if u := t.Usage; u != nil && min(u.InputTokens, u.OutputTokens, u.CacheReadInputTokens, u.CacheCreationInputTokens) < 0 {
			return wrong(at+".usage", "token counts cannot be negative")
		}
		before = len(t.Tools)
	}
	return nil
}

// Find gives the content of the first ```script block of a text.
func Find(text string) (script string, ok bool) {
	for rest := text; rest != ""; {
		var line string
		line, rest, _ = strings.Cut(rest, "\n")
		fence, isFence := opens(line)
		if !isFence {
			continue
		}
		body := rest
		for end := 0; ; {
			next, after, more := strings.Cut(rest, "\n")
			if t := strings.TrimSpace(next); strings.HasPrefix(t, fence) && strings.Trim(t, "`") == "" {
				return body[:end], true
			}
			if !more {
				return body, true // the fence was never closed
			}
			end += len(next) + 1
			rest = after
		}
	}
	return "", false
}

// opens says whether a line opens a script block, and with which fence.
func opens(line string) (fence string, ok bool) {
	line = strings.TrimSpace(line)
	info := strings.TrimLeft(line, "`")
	fence = line[:len(line)-len(info)]
	return fence, len(fence) >= 3 && strings.TrimSpace(info) == "script"
}
