// Package disk bounds what a session may write. Its tree is a file system in
// an image of its own, a sparse ext4 file beside the tree, mounted without
// device files and set-user-id programs: the bytes and the inodes of the image
// are all that there is. The image stays with the session's folder, is mounted
// again for the session's next sandbox, and is removed with the folder.
//
// It needs root, loop devices and mke2fs. New images are made ahead. Without
// root a session's tree is a file system in memory of the sandbox's own, and is
// carried to and from the disk when sandboxes end and begin; see Memory.
package disk

import (
	"errors"
	"log/slog"
	"path/filepath"
)

// Names in a session's folder.
const (
	treeName  = "tree"
	imageName = "disk.img"
)

// MinBytes is the smallest limit of a disk.
const MinBytes = 8 << 20

// Config of a pool.
type Config struct {
	// Dir is where images are made ahead; the pool owns it. It must lie on the
	// file system of the sessions' folders.
	Dir string
	// Ready is how many images of a size wait, mounted; 0 means 2.
	Ready int
	// Log hears when images cannot be made ahead; nil is silence.
	Log *slog.Logger
}

const defaultReady = 2

// ErrFull is the error of a folder whose tree was made without a disk.
var ErrFull = errors.New("disk: the session's tree was made without a limit and holds files")

func imageOf(folder string) string { return filepath.Join(folder, imageName) }
func treeOf(folder string) string  { return filepath.Join(folder, treeName) }
