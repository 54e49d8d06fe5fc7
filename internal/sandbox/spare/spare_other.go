//go:build !linux

package spare

import (
	"errors"
	"os"
)

// Shape is none.
type Shape struct{}

// Of gives an error.
func Of(string) (*Shape, error) { return nil, errors.New("spare: only on Linux") }

// Restore gives an error.
func (*Shape) Restore(*os.File, string) error { return errors.New("spare: only on Linux") }
