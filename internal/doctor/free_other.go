//go:build !linux

package doctor

import "errors"

func free(string) (bytes, inodes uint64, err error) {
	return 0, 0, errors.New("only on Linux")
}
