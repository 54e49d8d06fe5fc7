package toolset

import (
	"cmp"
	"container/heap"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"
)

type globInput struct {
	Pattern string `json:"pattern"`
	Path    string `json:"path"`
}

// maxGlobResults is how many paths glob gives.
const maxGlobResults = 200

func (s *Set) glob(ctx context.Context, id string, input json.RawMessage) outcome {
	in, err := decode[globInput]("glob", input)
	switch {
	case err != nil:
		return failf("%s", err)
	case in.Pattern == "":
		return failf("glob: pattern is required")
	case strings.HasPrefix(in.Pattern, "/"):
		return failf("glob: absolute pattern not permitted; pass a relative pattern (and optionally path)")
	case climbs(in.Pattern):
		return failf("glob: pattern %q must not contain a %q segment", in.Pattern, "..")
	}
	pattern, err := compileGlob(in.Pattern)
	if err != nil {
		return failf("glob: pattern %q %s", in.Pattern, err)
	}

	ctx, cancel := s.bounded(ctx)
	defer cancel()
	var found newest
	dirs := map[string]states{}
	var dir string
	var at states
	err = s.walk(ctx, cmp.Or(in.Path, "."), func(p string, e Entry) error {
		cut := strings.LastIndexByte(p, '/')
		if at == nil || p[:cut] != dir {
			dir = p[:cut]
			if at = dirs[dir]; at == nil { // the first of root's own entries
				at = pattern.start()
			}
			delete(dirs, dir) // its entries come in one run
		}
		matched, below := pattern.step(at, p[cut+1:], e.IsDir())
		if matched {
			found.add(p, e)
		}
		if e.IsDir() {
			if below.empty() {
				return fs.SkipDir
			}
			dirs[p] = below
		}
		return nil
	})
	notes := searchNotes(err)
	if err != nil && notes == "" {
		if ctx.Err() != nil {
			return failf("%s", interrupted)
		}
		return refusal("glob", cmp.Or(in.Path, "."), err)
	}
	if found.count == 0 {
		return ok("no matches" + notes)
	}
	text := strings.Join(found.paths(), "\n")
	if found.count > maxGlobResults {
		text += fmt.Sprintf("\n[the newest %d of %d matches; %d are not shown: narrow the pattern or the path]", maxGlobResults, found.count, found.count-maxGlobResults)
	}
	return ok(text + notes)
}

// newest keeps the newest matches, the oldest of them on top.
type newest struct {
	count int
	kept  []match
}

type match struct {
	path string
	time time.Time
}

func older(a, b match) int { return cmp.Or(a.time.Compare(b.time), -cmp.Compare(a.path, b.path)) }

func (n *newest) add(p string, e Entry) {
	info, err := e.Info()
	if err != nil {
		return // it is gone
	}
	n.count++
	m := match{p, info.ModTime()}
	if len(n.kept) < maxGlobResults {
		heap.Push(n, m)
	} else if older(n.kept[0], m) < 0 {
		n.kept[0] = m
		heap.Fix(n, 0)
	}
}

func (n *newest) paths() []string {
	slices.SortFunc(n.kept, func(a, b match) int { return -older(a, b) })
	paths := make([]string, len(n.kept))
	for i, m := range n.kept {
		paths[i] = m.path
	}
	return paths
}

func (n *newest) Len() int           { return len(n.kept) }
func (n *newest) Less(i, j int) bool { return older(n.kept[i], n.kept[j]) < 0 }
func (n *newest) Swap(i, j int)      { n.kept[i], n.kept[j] = n.kept[j], n.kept[i] }
func (n *newest) Push(x any)         { n.kept = append(n.kept, x.(match)) }
func (n *newest) Pop() any           { panic("the oldest is replaced, never popped") }

// Why a search ended early.
var (
	errSearchTime    = errors.New("out of time")
	errSearchEntries = errors.New("too many entries")
)

// bounded gives a search its time.
func (s *Set) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, s.opts.SearchTime, &stopped{errSearchTime, s.opts})
}

// walk is Files.Walk for a search: at most so many entries, and an end of
// ctx is told by its cause.
func (s *Set) walk(ctx context.Context, root string, fn func(path string, e Entry) error) error {
	seen := 0
	err := s.files.Walk(ctx, root, func(p string, e Entry) error {
		if seen++; seen > s.opts.SearchEntries {
			return &stopped{errSearchEntries, s.opts}
		}
		return fn(p, e)
	})
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return context.Cause(ctx)
	}
	return err
}

// stopped is why a search is not complete.
type stopped struct {
	why  error
	opts Options
}

func (e *stopped) Error() string { return e.why.Error() }
func (e *stopped) Unwrap() error { return e.why }

// searchNotes says in words what a search left out, or "" for an error that
// is none of that kind.
func searchNotes(err error) string {
	if e, ok := errors.AsType[*stopped](err); ok {
		if errors.Is(e, errSearchTime) {
			return fmt.Sprintf("\n[incomplete: the search was stopped after %s; narrow the path]", e.opts.SearchTime)
		}
		return fmt.Sprintf("\n[incomplete: the search was stopped after %d files and directories; narrow the path]", e.opts.SearchEntries)
	}
	if e, ok := errors.AsType[*WalkError](err); ok {
		return fmt.Sprintf("\n[incomplete: %d directories could not be read, first %s: %s]", e.Dirs, e.First, reason(e.Err))
	}
	return ""
}
