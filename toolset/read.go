package toolset

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"math"

	"github.com/berthdev/berth/api"
)

type readInput struct {
	FilePath  string    `json:"file_path"`
	ViewRange []integer `json:"view_range"`
}

const (
	sniffBytes = 8 << 10
	chunkBytes = 64 << 10
	// The sizes that a model's API takes.
	maxImageBytes = 5 << 20 / 4 * 3 // 5 MiB as base64
	maxPDFBytes   = 20 << 20
)

func (s *Set) read(ctx context.Context, id string, input json.RawMessage) outcome {
	in, err := decode[readInput]("read", input)
	switch {
	case err != nil:
		return failf("%s", err)
	case in.FilePath == "":
		return failf("read: file_path is required")
	case len(in.ViewRange) != 0 && len(in.ViewRange) != 2:
		return failf("read: view_range must be [start_line, end_line]")
	}
	f, err := s.files.Open(in.FilePath)
	if err != nil {
		return refusal("read", in.FilePath, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return refusal("read", in.FilePath, err)
	}
	start := make([]byte, sniffBytes)
	n, err := io.ReadFull(f, start)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return refusal("read", in.FilePath, err)
	}
	start = start[:n]
	rest := io.MultiReader(bytes.NewReader(start), f)

	switch kind := sniff(start); {
	case kind == "":
	case len(in.ViewRange) == 2 && (isImage(kind) || kind == typePDF):
		return failf("read: %s is %s; view_range is for text", in.FilePath, kind)
	case isImage(kind):
		return readBlock(in.FilePath, "image", kind, rest, maxImageBytes)
	case kind == typePDF:
		return readBlock(in.FilePath, "document", kind, rest, maxPDFBytes)
	default:
		return failf("read: %s is not text but %s (%d bytes). Use bash to look into it.", in.FilePath, kind, info.Size())
	}

	limit := s.opts.MaxFileBytes
	if len(in.ViewRange) == 2 {
		return readRange(ctx, in.FilePath, rest, int64(in.ViewRange[0]), int64(in.ViewRange[1]), limit)
	}
	text, err := io.ReadAll(io.LimitReader(rest, limit+1))
	if err != nil {
		return refusal("read", in.FilePath, err)
	}
	if size := max(info.Size(), int64(len(text))); size > limit {
		return failf("read: %s is %d bytes, exceeds %d-byte limit. Use the view_range parameter to read specific line ranges, e.g. view_range: [1, 500].",
			in.FilePath, size, limit)
	}
	return ok(string(text))
}

func readBlock(name, blockType, mediaType string, r io.Reader, limit int64) outcome {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	switch {
	case err != nil:
		return refusal("read", name, err)
	case int64(len(data)) > limit:
		return failf("read: %s is %s of more than %d bytes, the most that can be shown. Make it smaller first.", name, mediaType, limit)
	}
	return outcome{block: &api.Block{Type: blockType, Source: &api.Source{
		Type: "base64", MediaType: mediaType, Data: base64.StdEncoding.EncodeToString(data),
	}}}
}

// readRange gives the lines from first to last, counted from 1; last of 0 or
// less is the end. It keeps no more than the selected bytes in memory.
func readRange(ctx context.Context, name string, r io.Reader, first, last, limit int64) outcome {
	first = max(first, 1)
	if last <= 0 {
		last = math.MaxInt64
	}
	if last < first {
		return ok("")
	}
	var kept []byte
	line, chunk := int64(1), make([]byte, chunkBytes)
	for line <= last {
		if ctx.Err() != nil {
			return failf("read %s: stopped before its end", name)
		}
		n, err := r.Read(chunk)
		for rest := chunk[:n]; len(rest) > 0 && line <= last; {
			end := bytes.IndexByte(rest, '\n')
			part := rest
			if end >= 0 {
				part = rest[:end+1]
			}
			rest = rest[len(part):]
			if line >= first {
				kept = append(kept, part...)
			}
			if end >= 0 {
				if line == last { // its line end is not part of the answer
					kept = kept[:len(kept)-1]
				}
				line++
			}
			if int64(len(kept)) > limit {
				return tooMuch(name, first, last, limit)
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return ok(string(kept))
		case err != nil:
			return refusal("read", name, err)
		}
	}
	return ok(string(kept))
}

func tooMuch(name string, first, last, limit int64) outcome {
	if first == last {
		return failf("read: line %d of %s alone exceeds %d-byte limit. The read tool cannot return part of a line, so view_range cannot narrow this further.",
			first, name, limit)
	}
	if last == math.MaxInt64 {
		last = -1
	}
	return failf("read: view_range [%d, %d] of %s exceeds %d-byte limit. Narrow the view_range to read a smaller portion.", first, last, name, limit)
}
