package toolset

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
)

const (
	searchBuffer = 256 << 10 // of a worker, at first
	// maxLineBytes is the longest line that is searched as one; what is
	// longer is searched in pieces.
	maxLineBytes = 16 << 20
	// maxShownBytes is how much of a line is shown.
	maxShownBytes = 2000
	// searchJobs is how many files may wait, open, for a worker.
	searchJobs = 64
)

// search looks for a pattern in files, several at a time, and gives the lines
// in the order in which the files came. One goroutine feeds it.
type search struct {
	ctx     context.Context // of the one grep
	matcher *matcher
	jobs    chan searchJob
	workers sync.WaitGroup
	bytes   atomic.Int64 // of all hits so far
	next    int

	mu   sync.Mutex
	hits []searchHits
	left leftOut
}

type searchJob struct {
	seq  int
	path string
	file File
}

// searchHits are the lines found in one file, each with its line end.
type searchHits struct {
	seq  int
	text []byte
}

// leftOut counts what a search could not look at.
type leftOut struct {
	files     int
	first     string
	why       error
	longLines int
	firstLong string
	binary    string // the last binary file
}

func startSearch(ctx context.Context, m *matcher) *search {
	s := &search{ctx: ctx, matcher: m, jobs: make(chan searchJob, searchJobs)}
	for range min(runtime.GOMAXPROCS(0), 4) {
		s.workers.Go(s.work)
	}
	return s
}

// full says that the answer has no room for more lines.
func (s *search) full() bool { return s.bytes.Load() > maxGrepBytes }

// file hands a file in; the search closes it.
func (s *search) file(path string, f File) {
	s.jobs <- searchJob{s.next, path, f}
	s.next++
}

// unreadable notes a file that could not be opened. One that went away or
// changed its kind since it was listed is no loss.
func (s *search) unreadable(path string, err error) {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrNotRegular) || errors.Is(err, ErrIsDir) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left.files++; s.left.files == 1 {
		s.left.first, s.left.why = path, err
	}
}

// finish waits for the workers and gives the lines, and notes about what the
// answer does not hold, each on a line of its own.
func (s *search) finish() (text, notes string) {
	close(s.jobs)
	s.workers.Wait()
	slices.SortFunc(s.hits, func(a, b searchHits) int { return a.seq - b.seq })
	var b strings.Builder
	cut := false
	for _, h := range s.hits {
		room := maxGrepBytes - b.Len()
		if len(h.text) > room {
			cut = true
			h.text = h.text[:bytes.LastIndexByte(h.text[:max(room, 0)], '\n')+1]
		}
		b.Write(h.text)
		if cut {
			break
		}
	}
	text = strings.TrimSuffix(b.String(), "\n")
	var n strings.Builder
	if cut {
		fmt.Fprintf(&n, "\n[output truncated at %d bytes: there are more matches; narrow the pattern or the path]", maxGrepBytes)
	}
	if l := s.left; l.files > 0 {
		fmt.Fprintf(&n, "\n[incomplete: %d files could not be read, first %s: %s]", l.files, l.first, reason(l.why))
	}
	if l := s.left; l.longLines > 0 {
		fmt.Fprintf(&n, "\n[incomplete: %d files have lines of more than %d bytes, which were searched in pieces, first %s]", l.longLines, maxLineBytes, l.firstLong)
	}
	if l := s.left; l.binary != "" && s.next == 1 {
		fmt.Fprintf(&n, "\n[%s is binary and was not searched]", l.binary)
	}
	return text, n.String()
}

func (s *search) work() {
	w := searchWorker{search: s, scan: s.matcher.scanner(), buf: make([]byte, searchBuffer)}
	for job := range s.jobs {
		if s.ctx.Err() == nil {
			w.file(job)
		}
		job.file.Close()
	}
}

// searchWorker searches one file after the other; its buffers are used again.
type searchWorker struct {
	search *search
	scan   *scanner
	buf    []byte
	out    []byte

	path string
	line int // number of the line at the start of buf
}

func (w *searchWorker) file(job searchJob) {
	w.path, w.line, w.out = job.path, 1, w.out[:0]
	long := false
	n, err := 0, error(nil)
	for first := true; err == nil && w.search.ctx.Err() == nil && len(w.out) <= maxGrepBytes; {
		var got int
		got, err = job.file.Read(w.buf[n:])
		n += got
		if first && n > 0 {
			first = false
			if bytes.IndexByte(w.buf[:min(n, sniffBytes)], 0) >= 0 {
				w.search.mu.Lock()
				w.search.left.binary = job.path
				w.search.mu.Unlock()
				return
			}
		}
		if err == nil && n < len(w.buf) {
			continue
		}
		whole := n // up to the last line end, or all when nothing more comes
		if err == nil {
			whole = bytes.LastIndexByte(w.buf[:n], '\n') + 1
			if whole == 0 {
				if len(w.buf) < maxLineBytes {
					w.buf = append(w.buf, make([]byte, len(w.buf))...)
					continue
				}
				long, whole = true, n
			}
		}
		w.lines(w.buf[:whole])
		n = copy(w.buf, w.buf[whole:n])
	}
	if err != nil && err != io.EOF {
		w.search.unreadable(job.path, err)
	}
	if len(w.buf) > searchBuffer {
		w.buf = w.buf[:searchBuffer:searchBuffer]
	}
	if len(w.out) == 0 && !long {
		return
	}
	w.search.bytes.Add(int64(len(w.out)))
	w.search.mu.Lock()
	defer w.search.mu.Unlock()
	if len(w.out) > 0 {
		w.search.hits = append(w.search.hits, searchHits{job.seq, bytes.Clone(w.out)})
	}
	if long {
		if w.search.left.longLines++; w.search.left.longLines == 1 {
			w.search.left.firstLong = job.path
		}
	}
}

// lines searches whole lines and writes those that match.
func (w *searchWorker) lines(b []byte) {
	counted := 0 // where the line w.line begins
	for at := 0; at < len(b) && len(w.out) <= maxGrepBytes; {
		start, end := w.scan.next(b, at)
		if start < 0 {
			break
		}
		w.line += bytes.Count(b[counted:start], []byte{'\n'})
		counted = start
		w.out = append(append(w.out, w.path...), ':')
		w.out = append(strconv.AppendInt(w.out, int64(w.line), 10), ':')
		w.out = append(w.show(w.out, b[start:end]), '\n')
		at = end + 1
	}
	w.line += bytes.Count(b[counted:], []byte{'\n'})
}

// show appends a line, or of a long one the part around the match.
func (w *searchWorker) show(out, line []byte) []byte {
	line = bytes.TrimSuffix(line, []byte{'\r'})
	if len(line) <= maxShownBytes {
		return append(out, line...)
	}
	from := 0
	if at := w.search.matcher.re.FindIndex(line); at != nil && at[1] > maxShownBytes {
		from = max(0, min(at[0]-maxShownBytes/4, len(line)-maxShownBytes))
	}
	part := line[from : from+maxShownBytes]
	if from > 0 {
		part = wholeStart(part)
		out = fmt.Appendf(out, "[%d bytes] ", from)
	}
	part = wholeEnd(part)
	out = append(out, part...)
	if rest := len(line) - from - len(part); rest > 0 {
		out = fmt.Appendf(out, " [%d more bytes]", rest)
	}
	return out
}
