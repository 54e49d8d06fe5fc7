package plane

import (
	"crypto/rand"
	"encoding/binary"
	"math/big"
	"sync"
	"time"
)

// Id prefixes.
const (
	PrefixEnvironment = "env_"
	PrefixWork        = "work_"
	PrefixSession     = "sesn_"
	PrefixAgent       = "agent_"
	PrefixEvent       = "sevt_"
	PrefixThread      = "sthr_"
	PrefixOutcome     = "outc_"
	PrefixRequest     = "req_"
)

// base62 in ASCII order, so that ids sort as the numbers they encode.
const base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

var idClock struct {
	sync.Mutex
	millis  uint64
	counter uint16
}

// NewID is prefix + "01" + 22 characters of base62: 48 bits of milliseconds,
// a 16 bit counter and 64 random bits. Ids made by one process sort in the
// order they were made, whatever the clock does. Safe for concurrent use.
func NewID(prefix string) string {
	idClock.Lock()
	now := uint64(time.Now().UnixMilli())
	if now > idClock.millis {
		idClock.millis, idClock.counter = now, 0
	} else if idClock.counter++; idClock.counter == 0 {
		idClock.millis++
	}
	millis, counter := idClock.millis, idClock.counter
	idClock.Unlock()

	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], millis<<16|uint64(counter))
	rand.Read(b[8:])
	n := new(big.Int).SetBytes(b[:])
	radix, digit := big.NewInt(62), new(big.Int)
	var out [22]byte
	for i := len(out) - 1; i >= 0; i-- {
		n.DivMod(n, radix, digit)
		out[i] = base62[digit.Int64()]
	}
	return prefix + "01" + string(out[:])
}
