package plane

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"

	"github.com/berthdev/berth/api"
)

// checkBlocks judges content blocks of a client.
func checkBlocks(field string, blocks []api.Block, allowed ...string) error {
	if len(blocks) > MaxContentBlocks {
		return Errorf(Invalid, "%d content blocks are more than %d", len(blocks), MaxContentBlocks).In(field)
	}
	for i, b := range blocks {
		at := fmt.Sprintf("%s[%d]", field, i)
		if err := checkBlock(at, b, allowed); err != nil {
			return err
		}
	}
	return nil
}

func checkBlock(at string, b api.Block, allowed []string) error {
	if b.Type == "" {
		return Errorf(Invalid, "is required").In(at + ".type")
	}
	if !slices.Contains(allowed, b.Type) {
		return Errorf(Invalid, "%q is none of %s", clip(b.Type, 100), strings.Join(allowed, ", ")).In(at + ".type")
	}
	extra := func(there bool, name string) error {
		if there {
			return Errorf(Invalid, "does not belong to a block of type %s", b.Type).In(at + "." + name)
		}
		return nil
	}
	switch b.Type {
	case "text":
		if b.Text == "" {
			return Errorf(Invalid, "must not be empty").In(at + ".text")
		}
		return firstOf(extra(b.Source != nil, "source"), extra(b.Title != nil, "title"), extra(b.Context != nil, "context"),
			extra(b.Content != nil, "content"), extra(b.Citations != nil, "citations"))
	case "image":
		if err := firstOf(extra(b.Text != "", "text"), extra(b.Title != nil, "title"), extra(b.Context != nil, "context"),
			extra(b.Content != nil, "content"), extra(b.Citations != nil, "citations")); err != nil {
			return err
		}
		return checkSource(at+".source", b.Source, false)
	case "document":
		if err := firstOf(extra(b.Text != "", "text"), extra(b.Content != nil, "content"), extra(b.Citations != nil, "citations")); err != nil {
			return err
		}
		return checkSource(at+".source", b.Source, true)
	case "search_result":
		if err := firstOf(extra(b.Text != "", "text"), extra(b.Context != nil, "context")); err != nil {
			return err
		}
		if b.Source == nil || b.Source.Type != "" || b.Source.Plain == "" {
			return Errorf(Invalid, "must be a non-empty string").In(at + ".source")
		}
		if b.Title == nil {
			return Errorf(Invalid, "is required").In(at + ".title")
		}
		return checkBlocks(at+".content", b.Content, "text")
	}
	return nil
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// pictures are the media types of images that models take.
var pictures = []string{"image/png", "image/jpeg", "image/gif", "image/webp"}

// checkSource judges where an image's or a document's content comes from. What
// passes here a provider can read; what it cannot would fail every later
// request of the session.
func checkSource(at string, s *api.Source, document bool) error {
	if s == nil {
		return Errorf(Invalid, "is required").In(at)
	}
	media := pictures
	if document {
		media = []string{"application/pdf"}
	}
	switch {
	case s.Type == "base64":
		return firstOf(oneOf(at+".media_type", s.MediaType, media), checkBase64(at+".data", s.Data), foreignSource(at, s, "media_type", "data"))
	case s.Type == "url":
		return firstOf(checkURL(at+".url", s.URL), foreignSource(at, s, "url"))
	case s.Type == "text" && document:
		if s.Data == "" {
			return Errorf(Invalid, "is required").In(at + ".data")
		}
		return firstOf(oneOf(at+".media_type", s.MediaType, []string{"text/plain"}), foreignSource(at, s, "media_type", "data"))
	case s.Type == "file":
		return Errorf(Invalid, "file sources are not supported by this server yet; send the content as base64").In(at + ".type")
	}
	return Errorf(Invalid, "%q is not a source of this kind of block", clip(s.Type, 100)).In(at + ".type")
}

// foreignSource refuses members that belong to another type of source.
func foreignSource(at string, s *api.Source, own ...string) error {
	for _, m := range []struct{ name, value string }{{"media_type", s.MediaType}, {"data", s.Data}, {"url", s.URL}, {"file_id", s.FileID}} {
		if m.value != "" && !slices.Contains(own, m.name) {
			return Errorf(Invalid, "does not belong to a source of type %s", s.Type).In(at + "." + m.name)
		}
	}
	return nil
}

func oneOf(field, value string, allowed []string) error {
	switch {
	case slices.Contains(allowed, value):
		return nil
	case value == "":
		return Errorf(Invalid, "is required").In(field)
	}
	return Errorf(Invalid, "%q is none of %s", clip(value, 100), strings.Join(allowed, ", ")).In(field)
}

func checkBase64(field, data string) error {
	if data == "" {
		return Errorf(Invalid, "is required").In(field)
	}
	_, err := io.Copy(io.Discard, base64.NewDecoder(base64.StdEncoding, strings.NewReader(data)))
	if err != nil || strings.ContainsAny(data, "\r\n") { // which the decoder skips
		return Errorf(Invalid, "is not base64 with its padding and without line breaks").In(field)
	}
	return nil
}

func checkURL(field, s string) error {
	if s == "" {
		return Errorf(Invalid, "is required").In(field)
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return Errorf(Invalid, "%q is not an http or https URL", clip(s, 100)).In(field)
	}
	return nil
}
