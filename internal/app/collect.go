package app

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"

	"github.com/berthdev/berth/internal/config"
)

// Percentages of what is in use that may lie about as garbage. Of what a
// worker's calls need little stays. What a control plane holds is mostly its
// open streams, which stay and make little garbage: with many of them it
// collects earlier, which costs little.
const (
	workerPercent = 300
	planePercent  = 80
	fullPercent   = 40
	manyStreams   = 256 // and half as many are few again
)

// litter is how much garbage may lie about in any case, but with many streams:
// a process that holds little need not collect all the time.
const (
	litter   = 16 << 20 // bytes
	leastUse = 4 << 20  // bytes in use that a process is thought to have
)

// collector says when this process collects its garbage, anew after each time.
// GOGC, when the operator sets it, counts instead. Safe for concurrent use.
type collector struct {
	usual int

	mu     sync.Mutex
	many   bool
	now    uint64 // per cent, as it has been left
	theirs bool   // somebody else has set it
}

func newCollector(usual int) *collector {
	const goDefault = 100
	c := &collector{usual: usual, now: goDefault, theirs: config.GOGC()}
	c.adjust()
	c.follow()
	return c
}

// follow adjusts after each collection.
func (c *collector) follow() {
	runtime.AddCleanup(new(*collector), func(c *collector) {
		c.adjust()
		c.follow()
	}, c)
}

// streams takes how many are open.
func (c *collector) streams(open int) {
	if open > manyStreams/2 && open < manyStreams {
		return
	}
	c.mu.Lock()
	changed := c.many != (open >= manyStreams)
	c.many = open >= manyStreams
	c.mu.Unlock()
	if changed {
		c.adjust()
	}
}

// adjust sets the percentage for what is in use, if nobody else has set one.
func (c *collector) adjust() {
	state := []metrics.Sample{{Name: "/gc/gogc:percent"}, {Name: "/gc/heap/live:bytes"}}
	metrics.Read(state)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.theirs = c.theirs || state[0].Value.Uint64() != c.now; c.theirs {
		return
	}
	if p := c.percent(state[1].Value.Uint64()); p != c.now {
		debug.SetGCPercent(int(p))
		c.now = p
	}
}

// percent needs mu. Its steps are coarse, for to set it stops the program.
func (c *collector) percent(used uint64) uint64 {
	const step = 20
	if c.many {
		return fullPercent
	}
	return max(uint64(c.usual), 100*litter/max(used, leastUse)/step*step)
}
