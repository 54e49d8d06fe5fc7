package cgroup

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/internal/sandbox"
)

// setting is a value to write. An optional one need not be there to be written.
type setting struct {
	controller string
	limit      sandbox.Limit // holds once this is written; "" for one that helps
	file       string
	value      string
	optional   bool
}

// period is the time within which processors are shared out.
const period = 100_000 // µs

func quota(cpu float64) string {
	return strconv.FormatInt(int64(max(math.Round(cpu*period), 1000)), 10)
}

func unifiedSettings(l sandbox.Limits) []setting {
	var s []setting
	if l.CPU > 0 {
		s = append(s, setting{"cpu", sandbox.LimitCPU, "cpu.max", quota(l.CPU) + " " + strconv.Itoa(period), false})
	}
	if l.Memory > 0 {
		s = append(s, setting{"memory", sandbox.LimitMemory, "memory.max", strconv.FormatInt(l.Memory, 10), false},
			setting{"memory", "", "memory.swap.max", "0", true})
	}
	if l.PIDs > 0 {
		s = append(s, setting{"pids", sandbox.LimitPIDs, "pids.max", strconv.Itoa(l.PIDs), false})
	}
	return s
}

// legacySettings: memory with swap cannot be set below memory without it, so
// the order counts.
func legacySettings(l sandbox.Limits) []setting {
	var s []setting
	if l.CPU > 0 {
		s = append(s, setting{"cpu", "", "cpu.cfs_period_us", strconv.Itoa(period), false},
			setting{"cpu", sandbox.LimitCPU, "cpu.cfs_quota_us", quota(l.CPU), false})
	}
	if l.Memory > 0 {
		v := strconv.FormatInt(l.Memory, 10)
		s = append(s, setting{"memory", sandbox.LimitMemory, "memory.limit_in_bytes", v, false},
			setting{"memory", "", "memory.memsw.limit_in_bytes", v, true},
			setting{"memory", "", "memory.swappiness", "0", true})
	}
	if l.PIDs > 0 {
		s = append(s, setting{"pids", sandbox.LimitPIDs, "pids.max", strconv.Itoa(l.PIDs), false})
	}
	return s
}

// write puts the settings of the controllers that are there into a group.
func write(dir string, settings []setting, controllers []string) (held []sandbox.Limit, err error) {
	for _, s := range settings {
		if !slices.Contains(controllers, s.controller) {
			continue
		}
		if err := put(filepath.Join(dir, s.file), s.value); err != nil && !s.optional {
			return nil, fmt.Errorf("cgroup: set %s: %w", s.file, err)
		}
		if s.limit != "" {
			held = append(held, s.limit)
		}
	}
	return held, nil
}

// put writes to a control file, which must be there, in one write.
func put(path, value string) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	for {
		_, err := unix.Write(fd, []byte(value))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return &fs.PathError{Op: "write " + value + " to", Path: path, Err: err}
		default:
			return nil
		}
	}
}

// get reads a control file. The kernel writes it as it is read, so there is
// nothing to wait for, and no more than a page of it.
func get(path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	b := make([]byte, 4096)
	for {
		n, err := unix.Read(fd, b)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return nil, &fs.PathError{Op: "read", Path: path, Err: err}
		default:
			return b[:n], nil
		}
	}
}

// number reads a file that holds one number, 0 when it is not there or "max".
func number(path string) int64 {
	b, err := get(path)
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	return n
}

// field reads one line of a file of names and numbers.
func field(path, name string) int64 {
	b, err := get(path)
	if err != nil {
		return 0
	}
	return fieldOf(b, name)
}

func fieldOf(b []byte, name string) int64 {
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(line, " "); ok && k == name {
			n, _ := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
			return n
		}
	}
	return 0
}

func suffix() string { return strings.ToLower(rand.Text()[:8]) }
