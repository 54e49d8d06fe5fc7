package toolset

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
)

type writeInput struct {
	FilePath string  `json:"file_path"`
	Content  *string `json:"content"`
}

func (s *Set) write(ctx context.Context, id string, input json.RawMessage) outcome {
	in, err := decode[writeInput]("write", input)
	switch {
	case err != nil:
		return failf("%s", err)
	case in.FilePath == "":
		return failf("write: file_path is required")
	case in.Content == nil: // a call cut short must not empty a file
		return failf("write: content is required")
	}
	if err := s.files.WriteFile(in.FilePath, []byte(*in.Content)); err != nil {
		return refusal("write", in.FilePath, err)
	}
	return ok(fmt.Sprintf("wrote %d bytes to %s", len(*in.Content), in.FilePath))
}

type editInput struct {
	FilePath   string  `json:"file_path"`
	OldString  string  `json:"old_string"`
	NewString  *string `json:"new_string"`
	ReplaceAll bool    `json:"replace_all"`
}

func (s *Set) edit(ctx context.Context, id string, input json.RawMessage) outcome {
	in, err := decode[editInput]("edit", input)
	switch {
	case err != nil:
		return failf("%s", err)
	case in.FilePath == "":
		return failf("edit: file_path is required")
	case in.OldString == "":
		return failf("edit: old_string is required")
	case in.NewString == nil:
		return failf("edit: new_string is required")
	}
	f, err := s.files.Open(in.FilePath)
	if err != nil {
		return refusal("edit", in.FilePath, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return refusal("edit", in.FilePath, err)
	}
	limit := s.opts.MaxEditBytes
	content, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return refusal("edit", in.FilePath, err)
	}
	if size := max(info.Size(), int64(len(content))); size > limit {
		return failf("edit: %s is %d bytes, exceeds %d-byte limit. The edit tool loads the whole file and cannot modify a file this large.",
			in.FilePath, size, limit)
	}
	old, new := lineEnds(content, in.OldString, *in.NewString)
	count := bytes.Count(content, old)
	switch {
	case count == 0:
		return failf("edit: old_string not found in %s", in.FilePath)
	case count > 1 && !in.ReplaceAll:
		return failf("edit: old_string appears %d times in %s (must be unique)", count, in.FilePath)
	}
	if size := int64(len(content)) + int64(count)*int64(len(new)-len(old)); size > limit {
		return failf("edit: %s would grow to %d bytes, exceeds %d-byte limit", in.FilePath, size, limit)
	}
	if err := s.files.WriteFile(in.FilePath, bytes.ReplaceAll(content, old, new)); err != nil {
		return refusal("edit", in.FilePath, err)
	}
	return ok(fmt.Sprintf("edited %s (%d replacement(s))", in.FilePath, count))
}

// lineEnds fits an edit to a file whose lines end in CR LF: models write bare
// line feeds. What matches as it stands is left as it stands.
func lineEnds(content []byte, old, new string) (o, n []byte) {
	o, n = []byte(old), []byte(new)
	crlf, all := bytes.Count(content, []byte("\r\n")), bytes.Count(content, []byte("\n"))
	if 2*crlf <= all || bytes.Contains(o, []byte("\r")) {
		return o, n
	}
	if crlf < all && bytes.Contains(o, []byte("\n")) && bytes.Contains(content, o) {
		return o, n
	}
	wide := func(b []byte) []byte {
		return bytes.ReplaceAll(bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n")), []byte("\n"), []byte("\r\n"))
	}
	return wide(o), wide(n)
}
