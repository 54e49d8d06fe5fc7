package toolset

import (
	"cmp"
	"context"
	"encoding/json"
	"io/fs"
	"strings"
)

type grepInput struct {
	Pattern string `json:"pattern"`
	Path    string `json:"path"`
}

const (
	// maxGrepBytes bounds the lines that grep gives.
	maxGrepBytes = 100 << 10
	// maxPatternBytes bounds a regular expression.
	maxPatternBytes = 64 << 10
)

func (s *Set) grep(ctx context.Context, id string, input json.RawMessage) outcome {
	in, err := decode[grepInput]("grep", input)
	switch {
	case err != nil:
		return failf("%s", err)
	case in.Pattern == "":
		return failf("grep: pattern is required")
	case len(in.Pattern) > maxPatternBytes:
		return failf("grep: the pattern is longer than %d bytes", maxPatternBytes)
	}
	m, err := newMatcher(in.Pattern)
	if err != nil {
		return failf("grep: invalid regex: %s", err)
	}
	root := cmp.Or(in.Path, ".")
	info, err := s.files.Stat(root)
	if err != nil {
		return refusal("grep", root, err)
	}
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	search := startSearch(ctx, m)
	if info.IsDir() {
		err = s.walk(ctx, root, func(p string, e Entry) error {
			switch name := e.Name(); {
			case e.IsDir() && (name == ".git" || name == "node_modules"):
				return fs.SkipDir
			case !e.Type().IsRegular():
				return nil
			case search.full():
				return fs.SkipAll
			}
			f, err := e.Open()
			if err != nil {
				search.unreadable(p, err)
				return nil
			}
			search.file(p, f)
			return nil
		})
	} else {
		var f File
		if f, err = s.files.Open(root); err == nil {
			search.file(absolute(s.host.Workdir(), root), f)
		}
	}
	text, left := search.finish()
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	notes := searchNotes(err)
	switch {
	case err == nil || notes != "":
	case ctx.Err() != nil:
		return failf("%s", interrupted)
	default:
		return refusal("grep", root, err)
	}
	if text == "" {
		text = "no matches"
	}
	return ok(text + left + notes)
}

func absolute(workdir, name string) string {
	if strings.HasPrefix(name, "/") {
		return name
	}
	return strings.TrimSuffix(workdir, "/") + "/" + strings.TrimPrefix(name, "./")
}
