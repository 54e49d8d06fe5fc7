package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/berthdev/berth/internal/sandbox"
)

// Own makes what is missing of an open tree, and gives all of it to the
// session's user, should it have been another's. A negative uid leaves owners
// as they are.
func Own(spec sandbox.Spec, uid, gid int) error {
	outputs := filepath.Join(spec.Tree, "mnt/session/outputs")
	if err := os.Mkdir(outputs, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if uid < 0 {
		return nil
	}
	for _, place := range Places(spec) {
		root := filepath.Join(spec.Tree, place)
		st, err := os.Lstat(root)
		if err != nil {
			return err
		}
		if s, ok := st.Sys().(*syscall.Stat_t); ok && int(s.Uid) == uid {
			continue
		}
		// What is the user's is left alone: in a view even that would copy it.
		if err := filepath.WalkDir(root, func(path string, e os.DirEntry, err error) error {
			if err == nil && path != root {
				var info os.FileInfo
				if info, err = e.Info(); err == nil {
					err = give(path, info, uid, gid)
				}
			}
			if errors.Is(err, syscall.ENAMETOOLONG) {
				return nil // a session can nest deeper than a path can say
			}
			return err
		}); err != nil {
			return fmt.Errorf("give the tree to its user: %w", err)
		}
		if err := os.Lchown(root, uid, gid); err != nil { // last: it says that all below is the user's
			return fmt.Errorf("give the tree to its user: %w", err)
		}
	}
	info, err := os.Lstat(outputs) // it may be new
	if err == nil {
		err = give(outputs, info, uid, gid)
	}
	return err
}

// give gives a file to a user, unless it is that user's.
func give(path string, info os.FileInfo, uid, gid int) error {
	if s, ok := info.Sys().(*syscall.Stat_t); ok && int(s.Uid) == uid && int(s.Gid) == gid {
		return nil
	}
	return os.Lchown(path, uid, gid)
}
