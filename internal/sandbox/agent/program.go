// Package agent is the supervisor's end of a sandbox's agent: it finds the
// agent's program, starts it, and speaks to it. Drivers decide what is around
// the agent; this package knows what is the same for all of them.
package agent

import (
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
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

	spawn spawner
}

// File is the program, open for reading; callers do not close it.
func (p *Program) File() *os.File { return p.file }

// name is the agent's argv[0], and its file's name.
const name = "berth-agent"

var find = sync.OnceValues(locate)

// Find gives the agent's program: the one embedded in a release build, else
// berth-agent beside this program or in bin/ beside it, else this program
// itself, whose main must call child.Main. It looks once per process.
func Find() (*Program, error) { return find() }

// Or gives p, or where it is nil Find's.
func (p *Program) Or() (*Program, error) {
	if p != nil {
		return p, nil
	}
	return Find()
}

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

// Bytes is the program for somewhere else: one that needs no libraries.
func (p *Program) Bytes() ([]byte, error) {
	st, err := p.file.Stat()
	if err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	b := make([]byte, st.Size())
	if _, err := p.file.ReadAt(b, 0); err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	if f, err := elf.NewFile(p.file); err == nil {
		for _, s := range f.Progs {
			if s.Type == elf.PT_INTERP {
				return nil, fmt.Errorf("agent: the agent (%s) needs libraries, which a sandbox may not have: build it with CGO_ENABLED=0", p.Where)
			}
		}
	}
	return b, nil
}

// Install puts the program in a folder of dir named for its content, for those
// who can only start a file, and gives its path. dir must be this user's own.
func (p *Program) Install(dir string) (string, error) {
	if dir == "" {
		return "", errors.New("agent: no directory to install the agent in")
	}
	b, err := p.Bytes()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(b)
	folder := filepath.Join(dir, hex.EncodeToString(sum[:16]))
	path := filepath.Join(folder, name)
	if st, err := os.Lstat(path); err == nil && st.Mode().IsRegular() && st.Size() == int64(len(b)) {
		return path, nil
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", fmt.Errorf("agent: %w", err)
	}
	tmp, err := os.CreateTemp(folder, ".new-*")
	if err != nil {
		return "", fmt.Errorf("agent: %w", err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(b)
	err = errors.Join(err, tmp.Chmod(0o755), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return "", fmt.Errorf("agent: %w", err)
	}
	return path, nil
}
