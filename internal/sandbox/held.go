package sandbox

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/berthdev/berth/internal/sandbox/disk"
	"github.com/berthdev/berth/internal/sandbox/removal"
	"github.com/berthdev/berth/toolset"
)

// Held is a session's open sandbox.
type Held struct {
	toolset.Host
	keeper *Keeper
	dir    string
}

// Start runs a program beside the shell; see toolset.Starter.
func (h *Held) Start(ctx context.Context, p toolset.Program) (toolset.Process, error) {
	return toolset.Start(ctx, h.Host, p)
}

// Sandbox is the driver's sandbox behind it.
func (h *Held) Sandbox() Sandbox { return h.Host.(Sandbox) }

// stagedName is a file that is there while the tree has what it was to begin
// with.
const stagedName = "staged"

// Staged says whether MarkStaged has been called for the session's tree as it
// is now: not for one that was made anew.
func (h *Held) Staged() bool {
	_, err := os.Stat(filepath.Join(h.dir, stagedName))
	return err == nil
}

// MarkStaged notes that the tree has what it was to begin with.
func (h *Held) MarkStaged() error {
	return os.WriteFile(filepath.Join(h.dir, stagedName), nil, 0o600)
}

// Close ends the sandbox; with forget the session's tree goes too, and with
// it the memory that there was one, but not before what the session left is
// kept. Twice is fine.
func (h *Held) Close(ctx context.Context, forget bool) error {
	p := h.keeper.enter(filepath.Base(h.dir))
	defer h.keeper.leave(filepath.Base(h.dir), p)
	open := p.held == h
	if open {
		if err := h.keeper.stop(ctx, p, h.dir); err != nil {
			return err
		}
	}
	if p.sb != nil || !open && !forget {
		return nil
	}
	err := h.keeper.settle(ctx, h.dir)
	if !forget {
		return nil
	}
	if err != nil {
		return fmt.Errorf("sandbox: a session's files stay, because what it left could not be kept: %w", err)
	}
	if err := h.keeper.forget(h.dir); err != nil {
		return fmt.Errorf("sandbox: forget a session's files: %w", err)
	}
	return nil
}

// forget removes the folder of a session whose sandbox has ended, or has the pool
// use it again.
func (k *Keeper) forget(dir string) error {
	if k.pool != nil {
		if done, err := k.pool.salvage(dir); done || err != nil {
			return err
		}
	}
	return removeAll(dir)
}

// removeAll removes the folder of a session whose sandbox has ended.
func removeAll(dir string) error {
	if err := disk.Unmount(dir); err != nil {
		return err
	}
	return removal.All(dir)
}
