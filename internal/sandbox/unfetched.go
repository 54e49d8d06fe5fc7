package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Unfetched is an output that a session left where its driver alone could reach
// it, or in its sandbox's memory, and that did not come to its tree.
type Unfetched struct {
	Name   []byte `json:"name"` // below the outputs' directory; "." is what could not even be listed
	Reason string `json:"reason"`
}

const (
	unfetchedName = "unfetched.json"
	maxUnfetched  = 64 << 20 // bytes of the note of them
)

// WriteUnfetched notes in a sandbox's folder what its driver could not fetch,
// for KeeperConfig.Ended.
func WriteUnfetched(dir string, all []Unfetched) error {
	if len(all) == 0 {
		return nil
	}
	b, err := json.Marshal(all)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, unfetchedName), b, 0o600)
	}
	if err != nil {
		return fmt.Errorf("sandbox: note what was not fetched: %w", err)
	}
	return nil
}

// ReadUnfetched gives what the driver of the sandbox that ended in dir could
// not fetch.
func ReadUnfetched(dir string) ([]Unfetched, error) {
	path := filepath.Join(dir, unfetchedName)
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var b []byte
	if err == nil && info.Size() > maxUnfetched {
		err = errors.New("it is too large")
	}
	if err == nil {
		b, err = os.ReadFile(path)
	}
	var all []Unfetched
	if err == nil {
		err = json.Unmarshal(b, &all)
	}
	if err != nil {
		return nil, fmt.Errorf("sandbox: what was not fetched: %w", err)
	}
	return all, nil
}

func forgetUnfetched(dir string) error {
	err := os.Remove(filepath.Join(dir, unfetchedName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
