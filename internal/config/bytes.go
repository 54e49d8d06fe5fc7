package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Bytes is a size, given as a number with a unit: 512MiB, 2GB, or bytes alone.
type Bytes int64

var units = []struct {
	name string
	size float64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
	{"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1}, {"", 1},
}

// UnmarshalText reads a size.
func (b *Bytes) UnmarshalText(text []byte) error {
	s := strings.TrimSpace(string(text))
	for _, u := range units {
		number, ok := strings.CutSuffix(s, u.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if err != nil || n < 0 || n*u.size >= math.MaxInt64 || math.IsNaN(n) {
			break
		}
		*b = Bytes(n * u.size)
		return nil
	}
	return fmt.Errorf("%q is no size; write one such as 512MiB or 2GB", s)
}

// MarshalText writes the size in the largest binary unit that divides it.
func (b Bytes) MarshalText() ([]byte, error) {
	for _, u := range []int{3, 2, 1, 0} {
		if size := Bytes(units[u].size); b >= size && b%size == 0 {
			return fmt.Appendf(nil, "%d%s", b/size, units[u].name), nil
		}
	}
	return strconv.AppendInt(nil, int64(b), 10), nil
}
