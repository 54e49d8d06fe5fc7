package toolset

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"unicode/utf8"

	"github.com/berthdev/berth/api"
)

// outcome is how a tool ended, before it is made fit for the wire.
type outcome struct {
	text    string
	block   *api.Block // an image or document instead of text
	isError bool
}

func ok(text string) outcome { return outcome{text: text} }

func failf(format string, args ...any) outcome {
	return outcome{text: fmt.Sprintf(format, args...), isError: true}
}

// textual makes an outcome fit for the wire: never empty, always UTF-8, and
// without NUL, which not every store and reader takes.
func textual(o outcome) ([]api.Block, bool) {
	if o.block != nil {
		return []api.Block{*o.block}, o.isError
	}
	text := strings.Map(func(r rune) rune { // which makes a byte that is no UTF-8 a U+FFFD, too
		if r == 0 {
			return utf8.RuneError
		}
		return r
	}, o.text)
	if text == "" {
		text = "(no output)"
	}
	return []api.Block{api.Text(text)}, o.isError
}

// reason words a file system error without naming the host: the same words
// on every worker.
func reason(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "no such file or directory"
	case errors.Is(err, fs.ErrPermission):
		return "permission denied"
	case errors.Is(err, ErrNotDir), errors.Is(err, syscall.ENOTDIR):
		return "not a directory"
	case errors.Is(err, ErrIsDir), errors.Is(err, syscall.EISDIR):
		return "is a directory"
	case errors.Is(err, ErrLoop), errors.Is(err, syscall.ELOOP):
		return "too many levels of symbolic links"
	case errors.Is(err, fs.ErrExist):
		return "file exists"
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno.Error()
	}
	return "i/o error"
}

// refusal words an error of Files for a tool. op is the tool, name the path
// as the model gave it.
func refusal(op, name string, err error) outcome {
	switch {
	case errors.Is(err, ErrOutside):
		return failf("%s: path %q %s and its other permitted directories", op, name, ErrOutside)
	case errors.Is(err, ErrReadOnly):
		return failf("%s: %s %s", op, name, ErrReadOnly)
	case errors.Is(err, ErrLoop), errors.Is(err, syscall.ELOOP), errors.Is(err, syscall.ENAMETOOLONG), errors.Is(err, syscall.EINVAL):
		return failf("%s: path %q: %s", op, name, reason(err)) // no file can have that name
	case errors.Is(err, ErrNotRegular), op != "write" && errors.Is(err, ErrIsDir):
		return failf("%s: %s is not a regular file", op, name)
	}
	return failf("%s %s: %s", op, name, reason(err))
}
