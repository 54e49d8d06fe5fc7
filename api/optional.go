package api

import (
	"bytes"
	stdjson "encoding/json"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Optional is a request field that tells apart absent (the zero value), null
// and a value. Tag it omitzero.
type Optional[T any] struct {
	Value T
	Set   bool // the field was there
	Null  bool // and was null; Value is zero
}

// Some is a present value.
func Some[T any](v T) Optional[T] { return Optional[T]{Value: v, Set: true} }

// Null is a field that is there and null.
func Null[T any]() Optional[T] { return Optional[T]{Set: true, Null: true} }

// IsZero says that the field is absent.
func (o Optional[T]) IsZero() bool { return !o.Set }

func (o Optional[T]) MarshalJSON() ([]byte, error) {
	if !o.Set || o.Null {
		return []byte("null"), nil
	}
	return stdjson.Marshal(o.Value)
}

func (o *Optional[T]) UnmarshalJSON(b []byte) error {
	*o = Optional[T]{Set: true}
	if bytes.Equal(bytes.TrimSpace(b), []byte("null")) {
		o.Null = true
		return nil
	}
	return stdjson.Unmarshal(b, &o.Value)
}

// UnmarshalJSONFrom keeps the decoder's strictness inside the value.
func (o *Optional[T]) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	*o = Optional[T]{Set: true}
	if dec.PeekKind() == 'n' {
		o.Null = true
		return dec.SkipValue()
	}
	return json.UnmarshalDecode(dec, &o.Value)
}
