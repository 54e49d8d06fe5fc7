package plane

import (
	"math/big"
	"strings"
	"testing"
	"time"
)

// An id is the number it encodes, and ids sort as they were made.
func TestIDs(t *testing.T) {
	before, last := time.Now().UnixMilli(), ""
	for range 1000 {
		id := NewID(PrefixEvent)
		if id <= last {
			t.Fatalf("%s was made after %s", id, last)
		}
		last = id
		digits, ok := strings.CutPrefix(id, PrefixEvent+"01")
		if !ok || len(digits) != 22 {
			t.Fatalf("%s has not the form of an id", id)
		}
		n := new(big.Int)
		for _, digit := range digits {
			n.Mul(n, big.NewInt(62)).Add(n, big.NewInt(int64(strings.IndexRune(base62, digit))))
		}
		if n.BitLen() > 128 {
			t.Fatalf("%s is a number of %d bits", id, n.BitLen())
		}
		if made := n.Rsh(n, 80).Int64(); made < before || made > time.Now().UnixMilli()+1 {
			t.Fatalf("%s says that it was made at %d ms, after %d", id, made, before)
		}
	}
}
