//go:build !linux

package sandboxtest

import (
	"net/netip"
	"sync/atomic"
	"testing"
)

const attackPort = 21123

// packets are counted on Linux only.
type packets struct{ seen atomic.Int64 }

func countPackets(testing.TB, []netip.Addr) *packets { return nil }

func (p *packets) settle(testing.TB) {}
