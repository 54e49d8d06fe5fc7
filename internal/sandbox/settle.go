package sandbox

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/berthdev/berth/internal/sandbox/disk"
	"github.com/berthdev/berth/internal/sandbox/view"
)

// unsettledName is a file that holds the session's id from before its sandbox
// starts until what it left has been kept.
const unsettledName = "unsettled"

func markUnsettled(dir, session string) error {
	return replaceFile(filepath.Join(dir, unsettledName), []byte(session))
}

// readMark gives the session that the mark names; fs.ErrNotExist without a mark.
func readMark(dir string) (session string, err error) {
	text, err := os.ReadFile(filepath.Join(dir, unsettledName))
	return string(text), err
}

// Taken is since when the sandbox in a folder is a session's, as ReadRecord gives
// it; fs.ErrNotExist when it is none's.
func Taken(dir string) (time.Time, error) {
	info, err := os.Stat(filepath.Join(dir, unsettledName))
	if err != nil {
		return time.Time{}, err
	}
	return info.ModTime().UTC(), nil
}

// settle calls Ended for a folder whose sandbox has ended, until that has gone
// well once, and takes the session's disk away. Its error is logged: with one
// the tree has what nobody has kept.
func (k *Keeper) settle(ctx context.Context, dir string) error {
	for _, at := range view.Left(dir) { // of a crash; it may lie on the disk
		if err := view.Release(at); err != nil {
			k.log.Warn("a view that a crash left cannot be taken away", "dir", dir, "err", err)
		}
	}
	defer func() {
		if err := disk.Unmount(dir); err != nil {
			k.log.Warn("a session's disk stays mounted", "dir", dir, "err", err)
		}
	}()
	session, err := readMark(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = k.keepLeft(ctx, whose(dir, session), dir)
	}
	if err != nil {
		k.log.Error("what a session left is not kept; it is still in its tree", "dir", dir, "err", err)
		return err
	}
	if err := errors.Join(os.Remove(filepath.Join(dir, unsettledName)), forgetUnfetched(dir)); err != nil {
		k.log.Warn("what a session left may be kept again", "dir", dir, "err", err)
	}
	return nil
}

// keepLeft calls Ended with the session's files in sight.
func (k *Keeper) keepLeft(ctx context.Context, session, dir string) error {
	if k.cfg.Ended == nil {
		return nil
	}
	if session == "" {
		return errors.New("nothing says whose it is")
	}
	if disk.Has(dir) {
		if err := disk.Remount(dir); err != nil {
			return err
		}
	}
	if disk.Adrift(dir) {
		if err := WriteUnfetched(dir, []Unfetched{{Name: []byte("."), Reason: "what the session left was in its sandbox's memory, which is gone"}}); err != nil {
			k.log.Warn("outputs are lost, and the list of them will not say so", "dir", dir, "err", err)
		}
	}
	return k.cfg.Ended(ctx, session, dir)
}

// whose is the session that a folder is of, by its mark or, where a failure of
// the machine has cost the mark its text, by what else there is; "" when
// nothing says it.
func whose(dir, mark string) string {
	folder := filepath.Base(dir)
	for _, session := range []string{mark, folder} {
		if session != "" && Folder(session) == folder {
			return session
		}
	}
	if r, err := ReadReceipt(dir); err == nil && Folder(r.Session) == folder {
		return r.Session
	}
	return ""
}

func (k *Keeper) forgetRecord(dir string) {
	if err := Sweep(dir); err != nil {
		k.log.Warn("a leftover of a sandbox could not be removed", "err", err)
	}
}
