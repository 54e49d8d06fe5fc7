package sandbox

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Leftover is something of a sandbox that outlived it: a cgroup, a mount, a
// container.
type Leftover struct {
	Kind string `json:"kind"` // cgroup, mount, container, runsc, folder, ...
	Name string `json:"name"` // a path, or a name that its owner knows
	// Remove removes it with all that is in it. Nothing to remove is no error.
	Remove func(ctx context.Context) error `json:"-"`
}

// Cleaner is a Driver that can find what it left behind. Names of what it
// makes outside of a sandbox's folder begin with Label of that folder.
type Cleaner interface {
	// Leftovers lists what is there and belongs to nobody. live is asked with
	// a thing's name, which begins with a label; what is live stays, and so
	// does what another worker may own.
	Leftovers(ctx context.Context, live func(name string) bool) ([]Leftover, error)
}

// Label names a sandbox by its folder among everything on the host: no other
// worker's sandbox has the same.
func Label(dir string) string { return labels(filepath.Dir(dir)) + filepath.Base(dir) }

// labels begins every label of the folders in dir.
func labels(dir string) string {
	if abs, err := filepath.Abs(dir); err == nil {
		dir = abs
	}
	sum := sha256.Sum256([]byte(dir))
	return "berth-" + hex.EncodeToString(sum[:4]) + "-"
}

// Leftovers lists what sandboxes with folders in dir left on the host: what
// bears the label of one of these folders and of no record in them. With
// running a worker uses dir, and every folder that is there counts as in use.
func Leftovers(ctx context.Context, dir string, drivers []Driver, running bool) ([]Leftover, error) {
	mine := labels(dir)
	var scan error
	live := func(name string) bool {
		if !strings.HasPrefix(name, mine) {
			return true
		}
		// A folder is there before anything bears its label: one look that is
		// later than the thing was found is enough, but for a sandbox that goes
		// from folder to folder meanwhile.
		looks := 1
		if running {
			looks = 3
		}
		for range looks {
			used, err := inUse(dir, running)
			if err != nil {
				scan = err
				return true
			}
			for _, label := range used {
				if rest, ok := strings.CutPrefix(name, label); ok && (rest == "" || rest[0] == '.' || rest[0] == '-') {
					return true
				}
			}
		}
		return false
	}
	var left []Leftover
	var errs []error
	for _, d := range drivers {
		c, ok := d.(Cleaner)
		if !ok {
			continue
		}
		l, err := c.Leftovers(ctx, live)
		if err != nil {
			errs = append(errs, fmt.Errorf("sandbox: leftovers of %s: %w", d.Name(), err))
		}
		left = append(left, l...)
	}
	return left, errors.Join(append(errs, scan)...)
}

// inUse lists the labels of sandboxes that live, or may.
func inUse(dir string, running bool) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("sandbox: %w", err)
	}
	var used []string
	for _, e := range entries {
		folder := filepath.Join(dir, e.Name())
		rec, err := ReadRecord(folder)
		if err == nil && rec.Label != "" {
			used = append(used, rec.Label)
		}
		// A record that cannot be read may be of anything.
		if err == nil || running || !errors.Is(err, os.ErrNotExist) {
			used = append(used, Label(folder))
		}
	}
	return used, nil
}

// Abandoned lists the sandboxes in dir; the caller knows that their worker is
// gone. A session's files stay, and what it left is kept by the next worker.
func Abandoned(dir string, drivers []Driver) ([]Leftover, error) {
	entries, err := List(dir)
	var left []Leftover
	for _, e := range entries {
		if e.State == StateKept && e.Problem == "" {
			continue
		}
		folder := filepath.Join(dir, e.Folder)
		left = append(left, Leftover{Kind: "sandbox", Name: folder, Remove: func(ctx context.Context) error { return abandon(ctx, folder, drivers) }})
	}
	return left, err
}

func abandon(ctx context.Context, folder string, drivers []Driver) error {
	rec, err := ReadRecord(folder)
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err == nil, errors.Is(err, ErrRecord):
		if err := finishAny(ctx, folder, rec, drivers); err != nil {
			return err
		}
	default:
		return err
	}
	if err := Sweep(folder); err != nil {
		return err
	}
	if name := filepath.Base(folder); nobodys(name) || strings.HasPrefix(name, trialPrefix) {
		return removeAll(folder)
	}
	return nil
}

// finishAny ends what a record names by its driver; where nothing says which that
// is, by all of them.
func finishAny(ctx context.Context, folder string, rec Record, drivers []Driver) error {
	var errs []error
	found := false
	for _, d := range drivers {
		if rec.Driver == "" || rec.Driver == d.Name() {
			found = true
			errs = append(errs, finish(ctx, d, folder, rec))
		}
	}
	if !found {
		return fmt.Errorf("sandbox: %s is of a driver %q that is not here; use the berth that made it", folder, rec.Driver)
	}
	return errors.Join(errs...)
}
