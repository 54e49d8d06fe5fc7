package app

import (
	"runtime/debug"
	"sync"
)

// collectAt has this process collect its garbage when that is so many percent
// of what is in use. GOGC, when the operator sets it, counts instead: then it
// says no.
func collectAt(percent int) bool {
	const goDefault = 100
	if was := debug.SetGCPercent(percent); was != goDefault {
		debug.SetGCPercent(was)
		return false
	}
	return true
}

// What a control plane holds is mostly its open streams, which stay and make
// little garbage: with many of them it collects earlier, which costs little.
const (
	usualPercent = 80
	fullPercent  = 40
	manyStreams  = 256 // and half as many are few again
)

// collector has garbage collected by how many streams are open. Safe for
// concurrent use.
type collector struct {
	ours bool // the operator leaves it to us

	mu   sync.Mutex
	many bool
}

func newCollector() *collector { return &collector{ours: collectAt(usualPercent)} }

// streams takes how many are open.
func (c *collector) streams(open int) {
	if !c.ours || open > manyStreams/2 && open < manyStreams {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if many := open >= manyStreams; many != c.many {
		c.many = many
		percent := usualPercent
		if many {
			percent = fullPercent
		}
		debug.SetGCPercent(percent)
	}
}
