package memory

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/berthdev/berth/toolset"
)

// Bounds of a folder. The session writes there what it likes.
const (
	maxFile    = 1 << 20 // bytes of a memory; servers take less
	maxEntries = 20_000  // files and directories
	maxBytes   = 1 << 30 // of all files that are read in one look
	maxPath    = 1024    // bytes of a memory's path
	maxName    = 255     // bytes of a part of it
	maxDepth   = 20      // parts
)

// markName is a file that says which store the folder is of. It is never a
// memory. Whoever else finds the folder goes on with it only if it is right.
const markName = ".anthropic-memory-store"

// ourPrefix begins the names of files that are being written.
const ourPrefix = ".berth-"

func mark(store string) []byte { return []byte("version 1\n" + store) }

func sum(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

// isSum says whether a text can be what sum gives.
func isSum(s string) bool {
	return len(s) == hex.EncodedLen(sha256.Size) && strings.Trim(s, "0123456789abcdef") == ""
}

// printable says that a text is UTF-8 without control and format characters.
func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp) })
}

// unfit says why a name is none of a memory, "" when it is.
func unfit(name string) string {
	parts := strings.SplitN(name, "/", maxDepth+1)
	switch {
	case len(name) >= maxPath:
		return "its name is too long"
	case !printable(name):
		return "its name has characters that no memory's has"
	case len(parts) > maxDepth:
		return "it is too deep"
	}
	for _, p := range parts {
		switch {
		case p == "" || p == "." || p == "..":
			return "its name is no plain path"
		case len(p) > maxName:
			return "a part of its name is too long"
		case strings.HasPrefix(p, ourPrefix):
			return "its name is the worker's own"
		}
	}
	if name == markName {
		return "its name is the worker's own"
	}
	return ""
}

// look is what was found in a folder.
type look struct {
	files  map[string]string // name: SHA-256
	odd    map[string]string // name of what is there and can be no memory: why
	marked bool              // the mark is there, and right
}

func (l *look) empty() bool { return len(l.files) == 0 && len(l.odd) == 0 }

// look reads all of a folder. A directory that cannot be read is an error: what
// is in it has not gone.
func (st *store) look(ctx context.Context) (*look, error) {
	l := &look{files: map[string]string{}, odd: map[string]string{}}
	entries, bytes := 0, int64(0)
	err := st.folder.Walk(ctx, func(name string, e toolset.Entry) error {
		if entries++; entries > maxEntries {
			return problem(fmt.Sprintf("its folder has more than %d entries", maxEntries))
		}
		why := unfit(name)
		switch {
		case e.IsDir() && why != "":
			l.odd[name] = why
			return fs.SkipDir
		case e.IsDir():
			return nil
		case strings.HasPrefix(path.Base(name), ourPrefix):
			return nil
		case name == markName:
			b, err := read(e.Open)
			l.marked = err == nil && string(b) == string(mark(st.id))
			return nil
		case why == "" && !e.Type().IsRegular():
			why = "it is no regular file"
		}
		if why != "" {
			l.odd[name] = why
			return nil
		}
		b, err := read(e.Open)
		switch {
		case errors.Is(err, fs.ErrNotExist): // since it was listed
			return nil
		case err != nil:
			l.odd[name] = "it cannot be read"
			return nil
		case len(b) > maxFile:
			l.odd[name] = fmt.Sprintf("it is larger than %d bytes", maxFile)
			return nil
		}
		if bytes += int64(len(b)); bytes > maxBytes {
			return problem(fmt.Sprintf("its folder has more than %d bytes", int64(maxBytes)))
		}
		l.files[name] = sum(b)
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // the folder itself has gone
		return nil, err
	}
	return l, nil
}

// read gives a file's content, cut off behind maxFile.
func read(open func() (toolset.File, error)) ([]byte, error) {
	f, err := open()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxFile+1))
}

func (st *store) read(name string) ([]byte, error) {
	return read(func() (toolset.File, error) { return st.folder.Open(name) })
}

// hash is a file's SHA-256 now, "" when there is none.
func (st *store) hash(name string) (string, error) {
	b, err := st.read(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err != nil:
		return "", err
	}
	return sum(b), nil
}

// marked says whether the folder's mark is there and right.
func (st *store) marked() bool {
	b, err := st.read(markName)
	return err == nil && string(b) == string(mark(st.id))
}
