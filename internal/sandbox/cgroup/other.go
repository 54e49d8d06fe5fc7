//go:build !linux

package cgroup

import (
	"errors"
	"time"

	"github.com/berthdev/berth/internal/sandbox"
)

// Group is none: control groups are Linux's.
type Group struct{ Dirs Dirs }

// Enforces is empty.
func Enforces() []sandbox.Limit { return nil }

// New gives no group.
func New(string, sandbox.Limits) (*Group, []sandbox.Limit, error) { return &Group{}, nil, nil }

// Open gives no group.
func Open(Dirs) *Group { return &Group{} }

// Of is nil.
func Of(int) *Group { return nil }

// FD is -1.
func (g *Group) FD() int { return -1 }

// Close does nothing.
func (g *Group) Close() {}

// Add does nothing.
func (g *Group) Add(int) error { return nil }

// Enter does nothing.
func (g *Group) Enter(int) error { return nil }

// OOMs is 0.
func (g *Group) OOMs() int64 { return 0 }

// Usage is zero.
func (g *Group) Usage() Usage { return Usage{} }

// Freeze fails.
func (g *Group) Freeze(bool) error { return errors.New("cgroup: there are none here") }

// Kill does nothing.
func (g *Group) Kill() error { return nil }

// Empty is true.
func (g *Group) Empty() bool { return true }

// Remove does nothing.
func (g *Group) Remove() error { return nil }

// Name is "".
func (g *Group) Name() string { return "" }

// Leftovers is empty.
func Leftovers(string) ([]*Group, error) { return nil, nil }

// Held is empty.
func (g *Group) Held(sandbox.Limits, int) ([]sandbox.Limit, bool) { return nil, false }

// Settings are none.
func (g *Group) Settings() string { return "" }

// Only is false.
func (g *Group) Only(int, int) bool { return false }

// Shared is 0.
func (g *Group) Shared() int64 { return 0 }

// Stale is empty.
func Stale(func(string) bool) ([]sandbox.Leftover, error) { return nil, nil }

// Unused is empty.
func Unused(time.Duration) ([]sandbox.Leftover, error) { return nil, nil }
