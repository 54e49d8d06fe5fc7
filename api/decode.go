package api

import (
	"bytes"
	"errors"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Decode reads a request body strictly: unknown and repeated members, wrong
// types, invalid UTF-8 and trailing data are a *FieldError naming the member.
func Decode(body []byte, into any) error { return decode(body, into, true) }

// DecodeLenient is Decode that lets unknown members pass.
func DecodeLenient(body []byte, into any) error { return decode(body, into, false) }

var asClient = json.JoinOptions(jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))

// DecodeAnswer reads what a server has sent: unknown members pass, repeated ones
// (the last counts) and what is no UTF-8.
func DecodeAnswer(raw []byte, into any) error { return json.Unmarshal(raw, into, asClient) }

func decode(body []byte, into any, strict bool) error {
	if len(bytes.TrimSpace(body)) == 0 {
		return &FieldError{Problem: "the request body is empty; send a JSON object"}
	}
	return fieldError(json.Unmarshal(body, into, json.RejectUnknownMembers(strict)))
}

func fieldError(err error) error {
	if err == nil {
		return nil
	}
	if fe, ok := errors.AsType[*FieldError](err); ok {
		if se, ok := errors.AsType[*json.SemanticError](err); ok && se.JSONPointer != "" && fe.Path == "" {
			return &FieldError{Path: dotted(se.JSONPointer), Problem: fe.Problem}
		}
		return fe
	}
	if se, ok := errors.AsType[*json.SemanticError](err); ok {
		problem := "has the wrong type"
		switch {
		case errors.Is(se.Err, json.ErrUnknownName):
			problem = "unknown field"
		case se.JSONKind != 0 && se.GoType != nil:
			problem = "wrong type: got " + kindName(se.JSONKind) + ", want " + typeName(se.GoType.Kind().String())
		case se.Err != nil:
			problem = se.Err.Error()
		}
		return &FieldError{Path: dotted(se.JSONPointer), Problem: problem}
	}
	if se, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		return &FieldError{Path: dotted(se.JSONPointer), Problem: "not valid JSON: " + se.Err.Error()}
	}
	return &FieldError{Problem: err.Error()}
}

func kindName(k jsontext.Kind) string {
	switch k {
	case 'n':
		return "null"
	case 't', 'f':
		return "boolean"
	case '"':
		return "string"
	case '0':
		return "number"
	case '[':
		return "array"
	}
	return "object"
}

func typeName(goKind string) string {
	switch {
	case goKind == "slice" || goKind == "array":
		return "array"
	case goKind == "map" || goKind == "struct" || goKind == "ptr":
		return "object"
	case goKind == "bool":
		return "boolean"
	case strings.HasPrefix(goKind, "int"), strings.HasPrefix(goKind, "uint"):
		return "integer"
	case strings.HasPrefix(goKind, "float"):
		return "number"
	}
	return goKind
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
