// Package agent is the supervisor's end of a sandbox's agent: it finds the
// agent's program, starts it, and speaks to it. Drivers decide what is around
// the agent; this package knows what is the same for all of them.
package agent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
)

// Program is the agent's executable, held open so that it can be started from
// anywhere, also by a user who cannot reach its path. Safe for concurrent use.
type Program struct {
	file *os.File
	// Where says which one it is: "embedded", a path, or "itself".
	Where string
}

// name is the agent's argv[0], and its file's name.
const name = "berth-agent"

var find = sync.OnceValues(locate)

// Find gives the agent's program: the one embedded in a release build, else
// berth-agent beside this program or in bin/ beside it, else this program
// itself, whose main must call child.Main. It looks once per process.
func Find() (*Program, error) { return find() }

func locate() (*Program, error) {
	if len(embedded) > 0 {
		f, err := sealed(embedded)
		if err != nil {
			return nil, fmt.Errorf("agent: unpack the embedded agent: %w", err)
		}
		return &Program{file: f, Where: "embedded"}, nil
	}
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	dir := filepath.Dir(self)
	for _, path := range []string{filepath.Join(dir, name), filepath.Join(dir, "bin", name)} {
		p, err := Open(path)
		if err == nil {
			return p, nil
		}
		// One that is not there, or not for this user's eyes: this program
		// holds an agent too.
		if !errors.Is(err, os.ErrNotExist) && !errors.Is(err, os.ErrPermission) {
			return nil, err
		}
	}
	f, err := os.Open(selfPath(self))
	if err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	return &Program{file: f, Where: "itself"}, nil
}

// Open gives the agent in a file. It is copied to memory: what happens to the
// file later does not reach a sandbox, and no sandbox reaches the file.
func Open(path string) (*Program, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	m, err := sealed(b)
	if err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	return &Program{file: m, Where: path}, nil
}
