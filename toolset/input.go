package toolset

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
)

// decode reads a tool's arguments. Arguments it does not know are let pass.
func decode[T any](tool string, input json.RawMessage) (in T, err error) {
	if len(bytes.TrimSpace(input)) == 0 {
		return in, nil
	}
	err = json.Unmarshal(input, &in)
	if err == nil {
		return in, nil
	}
	var zero T
	if te, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		if te.Field == "" {
			return zero, fmt.Errorf("invalid %s input: it must be a JSON object", tool)
		}
		return zero, fmt.Errorf("invalid %s input: %s must be %s", tool, te.Field, article(te.Type.Kind().String()))
	}
	if _, ok := errors.AsType[*json.SyntaxError](err); ok {
		return zero, fmt.Errorf("invalid %s input: it is not valid JSON", tool)
	}
	return zero, fmt.Errorf("invalid %s input: %w", tool, err)
}

func article(goKind string) string {
	switch goKind {
	case "string":
		return "a string"
	case "bool":
		return "true or false"
	case "slice":
		return "an array"
	}
	return "an integer"
}

// integer takes whole numbers however they are written: 5, 5.0, 5e0.
type integer int64

func (i *integer) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		return nil
	}
	if n, err := strconv.ParseInt(string(b), 10, 64); err == nil {
		*i = integer(n)
		return nil
	}
	f, err := strconv.ParseFloat(string(b), 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) || f != math.Trunc(f) {
		return fmt.Errorf("%.40s is not a whole number", b)
	}
	switch {
	case f >= math.MaxInt64:
		*i = math.MaxInt64
	case f <= math.MinInt64:
		*i = math.MinInt64
	default:
		*i = integer(f)
	}
	return nil
}
