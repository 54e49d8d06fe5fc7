package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/berthdev/berth/internal/sandbox/removal"
)

// DefaultOrphanTTL is how long a sandbox waits for its worker to come back.
const DefaultOrphanTTL = 120 * time.Second

// DefaultOutputBytes is how much of a command's output is kept.
const DefaultOutputBytes = 100 << 10

const (
	recordName = "record.json"
	socketName = "agent.sock"
)

// RunDirName is the folder in Spec.Dir for an agent that has no other place
// for its shell's pipes.
const RunDirName = "run"

// EgressDirName is the folder in Spec.Dir that holds Network.Socket.
const EgressDirName = "egress"

// Sweep removes what a sandbox leaves in its folder beside the tree.
func Sweep(dir string) error {
	var errs []error
	for _, name := range []string{socketName, recordName, recordName + ".new"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	for _, name := range []string{RunDirName, EgressDirName} {
		errs = append(errs, removal.All(filepath.Join(dir, name)))
	}
	return errors.Join(errs...)
}

// asideName is a record that could not be read.
const asideName = "record.unread"

// SetAside keeps the record in dir for whoever wants to know what is wrong with
// it; nobody goes by it any more.
func SetAside(dir string) error {
	err := os.Rename(filepath.Join(dir, recordName), filepath.Join(dir, asideName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// lostRecord is what is known of a sandbox in dir without its record.
func lostRecord(dir string) Record {
	rec := Record{Label: Label(dir), Spec: Spec{Dir: dir, Tree: filepath.Join(dir, "tree")}}
	if r, err := ReadReceipt(dir); err == nil {
		rec.Driver = r.Driver
	}
	return rec
}

// SocketPath is where the agent of the sandbox in dir listens.
func SocketPath(dir string) string { return filepath.Join(dir, socketName) }

// WriteRecord puts a record in its Spec.Dir, in one step. It is not synced: a
// record is of use only as long as the machine that holds its processes runs.
// Drivers call it before they rely on what the record names. That of a sandbox
// that is kept ready names no session.
func WriteRecord(rec Record) error {
	if nobodys(rec.SessionID) {
		rec.SessionID = ""
	}
	b, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("sandbox: record: %w", err)
	}
	if err := replaceFile(filepath.Join(rec.Spec.Dir, recordName), b); err != nil {
		return fmt.Errorf("sandbox: record: %w", err)
	}
	return nil
}

// replaceFile puts a file in place in one step.
func replaceFile(path string, b []byte) error {
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// ReadRecord reads the record in dir; fs.ErrNotExist when there is none. With
// ErrRecord it gives what Recover needs to end the sandbox. That of
// a sandbox that was ready stays as it was written when a session takes it: the
// name of the folder, and the mark in it, say whose it is and since when.
func ReadRecord(dir string) (Record, error) {
	b, err := os.ReadFile(filepath.Join(dir, recordName))
	if err != nil {
		return Record{}, fmt.Errorf("sandbox: record: %w", err)
	}
	var rec Record
	if err := json.Unmarshal(b, &rec); err != nil {
		return lostRecord(dir), fmt.Errorf("sandbox: %w: %s: %w", ErrRecord, dir, err)
	}
	if rec.SessionID == "" && !nobodys(filepath.Base(dir)) {
		rec.Spec.Dir, rec.Spec.Tree = dir, filepath.Join(dir, "tree")
		session, _ := readMark(dir) // the folder may say it
		if since, err := Taken(dir); err == nil {
			rec.StartedAt = since
		}
		rec.SessionID = whose(dir, session)
		rec.Spec.SessionID = rec.SessionID
	}
	return rec, nil
}
