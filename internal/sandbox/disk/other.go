//go:build !linux

package disk

import (
	"context"
	"errors"
)

// Pool makes nothing: it needs Linux.
type Pool struct{}

var errLinux = errors.New("disk: images of a session's own need Linux")

// NewPool makes a pool.
func NewPool(Config) (*Pool, error) { return &Pool{}, nil }

// Able says no.
func (p *Pool) Able() error { return errLinux }

// Mount fails.
func (p *Pool) Mount(context.Context, string, int64) error { return errLinux }

// Stop does nothing.
func (p *Pool) Stop() error { return nil }

// Remount fails.
func Remount(string) error { return errLinux }

// Has is false.
func Has(string) bool { return false }

// Size finds no disk.
func Size(string) (int64, bool, error) { return 0, false, nil }

// Unmount does nothing.
func Unmount(string) error { return nil }

// Leftovers is empty.
func Leftovers(string) ([]string, error) { return nil, nil }

// Adrift is false.
func Adrift(string) bool { return false }

// Lose does nothing.
func Lose(string) error { return nil }
