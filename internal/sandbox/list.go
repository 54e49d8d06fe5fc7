package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// State is how a folder of sandboxes stands.
type State string

// The states.
const (
	StateReady State = "ready" // a sandbox that waits for a session
	StateSpare State = "spare" // a folder for the next sandbox
	StateLive  State = "live"  // a session's sandbox lives, or its worker was cut off
	StateKept  State = "kept"  // the sandbox has ended, the session's files are kept
)

// Entry is one folder of sandboxes.
type Entry struct {
	Folder  string     `json:"folder"`
	Session string     `json:"session,omitempty"` // "" for nobody's, and where nothing says
	Driver  string     `json:"driver,omitempty"`
	State   State      `json:"state"`
	Started *time.Time `json:"started_at,omitempty"` // of what lives
	Receipt *Receipt   `json:"receipt,omitempty"`    // the newest
	Problem string     `json:"problem,omitempty"`    // why the record or the receipt cannot be read
}

// List tells what is in a directory of sandboxes, by name. A folder that goes
// away meanwhile is left out.
func List(dir string) ([]Entry, error) {
	folders, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("sandbox: %w", err)
	}
	var entries []Entry
	for _, f := range folders {
		if f.IsDir() {
			entries = append(entries, look(filepath.Join(dir, f.Name())))
		}
	}
	return entries, nil
}

func look(dir string) Entry {
	e := Entry{Folder: filepath.Base(dir), State: StateKept}
	note := func(err error) {
		if !errors.Is(err, fs.ErrNotExist) && e.Problem == "" {
			e.Problem = err.Error()
		}
	}
	if r, err := ReadReceipt(dir); err == nil {
		e.Receipt, e.Session, e.Driver = &r, r.Session, r.Driver
	} else {
		note(err)
	}
	if rec, err := ReadRecord(dir); err == nil {
		e.State, e.Session, e.Driver, e.Started = StateLive, rec.SessionID, rec.Driver, &rec.StartedAt
	} else {
		note(err)
	}
	if nobodys(e.Folder) {
		if e.Session = ""; e.State == StateLive {
			e.State = StateReady
		} else {
			e.State = StateSpare
		}
	}
	return e
}

// List tells what is in the keeper's directory.
func (k *Keeper) List() ([]Entry, error) { return List(k.cfg.Dir) }
