package plane

import (
	"crypto/rand"
	"encoding/binary"
	"math/bits"
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

	var random [8]byte
	rand.Read(random[:])
	high, low := millis<<16|uint64(counter), binary.BigEndian.Uint64(random[:])
	var out [22]byte
	// Ten digits at a time, for that many fit a word.
	const tenDigits = 62 * 62 * 62 * 62 * 62 * 62 * 62 * 62 * 62 * 62
	for end := len(out); end > 0; end -= 10 {
		var ten uint64
		high, ten = high/tenDigits, high%tenDigits
		low, ten = bits.Div64(ten, low, tenDigits)
		for i := end - 1; i >= max(0, end-10); i-- {
			out[i] = base62[ten%62]
			ten /= 62
		}
	}
	return prefix + "01" + string(out[:])
}
