package toolset

import (
	"cmp"
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
	wait := waiting{}
	var dir string
	var at states
	err = s.walkTimes(ctx, cmp.Or(in.Path, "."), func(p string, e Entry) (bool, error) {
		cut := strings.LastIndexByte(p, '/')
		if at == nil || p[:cut] != dir {
			dir = p[:cut]
			if at = wait.enter(dir); at == nil { // the first of root's own entries
				at = pattern.start()
			}
		}
		matched, below := pattern.step(at, p[cut+1:], e.IsDir())
		if e.IsDir() {
			if below.empty() {
				return matched, fs.SkipDir
			}
			wait.add(e.Name(), below)
		}
		return matched, nil
	}, found.add)
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

// waiting is how far the pattern has come in the directories that are still to
// be walked, by their depth and names: their paths may be long, each of them.
// A directory's entries come in one run, and all below it before its next
// neighbour's.
type waiting struct {
	depth int
	at    map[int]map[string]states
}

// enter begins the run of a directory's entries.
func (w *waiting) enter(dir string) states {
	w.depth = strings.Count(dir, "/")
	own := w.at[w.depth][dir[strings.LastIndexByte(dir, '/')+1:]]
	delete(w.at, w.depth+1)
	return own
}

// add notes a directory of the run.
func (w *waiting) add(name string, at states) {
	below := w.at[w.depth+1]
	if below == nil {
		below = map[string]states{}
		if w.at == nil {
			w.at = map[int]map[string]states{}
		}
		w.at[w.depth+1] = below
	}
	below[name] = at
}

// newest keeps the newest matches.
type newest struct {
	count int
	kept  []match // among others, until they are too many
	least match   // once there are enough: nothing older is kept
}

type match struct {
	path string
	time time.Time
}

// newer orders matches from the newest on.
func newer(a, b match) int { return cmp.Or(b.time.Compare(a.time), cmp.Compare(a.path, b.path)) }

func (n *newest) add(path string, modified time.Time) {
	n.count++
	m := match{path, modified}
	if n.count > maxGlobResults && newer(n.least, m) < 0 {
		return
	}
	n.kept = append(n.kept, m)
	if n.count == maxGlobResults || len(n.kept) == 4*maxGlobResults {
		n.cut()
	}
}

// cut drops what is too old, and sorts the others.
func (n *newest) cut() {
	slices.SortFunc(n.kept, newer)
	if len(n.kept) >= maxGlobResults {
		clear(n.kept[maxGlobResults:])
		n.kept = n.kept[:maxGlobResults]
		n.least = n.kept[maxGlobResults-1]
	}
}

func (n *newest) paths() []string {
	n.cut()
	paths := make([]string, len(n.kept))
	for i, m := range n.kept {
		paths[i] = m.path
	}
	return paths
}

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
	count := s.counter()
	return whyEnded(ctx, s.files.Walk(ctx, root, func(p string, e Entry) error {
		if err := count(); err != nil {
			return err
		}
		return fn(p, e)
	}))
}

// walkTimes is walk for a search that wants times; see Timer.
func (s *Set) walkTimes(ctx context.Context, root string, pick func(path string, e Entry) (bool, error), found func(path string, modified time.Time)) error {
	if t, ok := s.files.(Timer); ok {
		count := s.counter()
		return whyEnded(ctx, t.WalkTimes(ctx, root, func(p string, e Entry) (bool, error) {
			if err := count(); err != nil {
				return false, err
			}
			return pick(p, e)
		}, found))
	}
	return s.walk(ctx, root, func(p string, e Entry) error {
		picked, err := pick(p, e)
		if picked {
			if info, gone := e.Info(); gone == nil {
				found(p, info.ModTime())
			}
		}
		return err
	})
}

// counter counts the entries of one search, and is an error when they are too
// many.
func (s *Set) counter() func() error {
	seen := 0
	return func() error {
		if seen++; seen > s.opts.SearchEntries {
			return &stopped{errSearchEntries, s.opts}
		}
		return nil
	}
}

func whyEnded(ctx context.Context, err error) error {
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
