//go:build !linux

package spare

import "errors"

// Shape is none.
type Shape struct{}

// Of gives an error.
func Of(string) (*Shape, error) { return nil, errors.New("spare: only on Linux") }

// Restore gives an error.
func (*Shape) Restore(string) error { return errors.New("spare: only on Linux") }
