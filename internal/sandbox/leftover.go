package sandbox

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"path/filepath"
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
