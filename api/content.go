package api

import (
	"encoding/json"

	xjson "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Block is a piece of content. Type says which members count: text, image,
// document, search_result or redacted.
type Block struct {
	Type      string     `json:"type"`
	Text      string     `json:"text,omitempty"`
	Source    *Source    `json:"source,omitempty"`
	Title     *string    `json:"title,omitempty"`
	Context   *string    `json:"context,omitempty"`
	Content   []Block    `json:"content,omitempty"`
	Citations *Citations `json:"citations,omitempty"`
}

// Text is a text block.
func Text(s string) Block { return Block{Type: "text", Text: s} }

// Source is where an image or document comes from (base64, url, file or
// text). A search_result's source is a bare string, kept in Plain.
type Source struct {
	Type      string `json:"type"`
	MediaType string `json:"media_type,omitempty"`
	Data      string `json:"data,omitempty"`
	URL       string `json:"url,omitempty"`
	FileID    string `json:"file_id,omitempty"`

	Plain string `json:"-"`
}

func (s *Source) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	*s = Source{}
	if dec.PeekKind() == '"' {
		return xjson.UnmarshalDecode(dec, &s.Plain)
	}
	type plain Source
	return xjson.UnmarshalDecode(dec, (*plain)(s))
}

func (s *Source) UnmarshalJSON(b []byte) error { return xjson.Unmarshal(b, s) }

func (s Source) MarshalJSON() ([]byte, error) {
	if s.Type == "" {
		return json.Marshal(s.Plain)
	}
	type plain Source
	return json.Marshal(plain(s))
}

// Citations switches citations of a search result on.
type Citations struct {
	Enabled bool `json:"enabled"`
}
