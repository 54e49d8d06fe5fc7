//go:build !linux

package tree

import "os"

// exchange swaps two names.
func exchange(a, b string) {
	os.Rename(a, a+".")
	os.Rename(b, a)
	os.Rename(a+".", b)
}
