//go:build !linux

package outputs

import (
	"io/fs"
	"time"
)

func replace(dir, to string) error { return replaceInTwo(dir, to) }

func version(fs.FileInfo, time.Time) string { return "" }
