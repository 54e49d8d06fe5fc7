package sandboxtest

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// attackPort is what a sandbox tries: one that the kernel gives to no connection
// of the host by itself.
const attackPort = 21123

// packets counts what passes any interface of the host towards addresses that
// nobody uses, or towards attackPort.
type packets struct {
	fd     int
	own    netip.Addr // where this process knocks, and no other
	seen   atomic.Int64
	knocks atomic.Int64
	ended  chan struct{}
}

// countPackets begins to count; nil where this user may not.
func countPackets(t testing.TB, to []netip.Addr) *packets {
	t.Helper()
	const all = unix.ETH_P_ALL
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(binary.BigEndian.Uint16([]byte{all & 0xff, all >> 8})))
	if err != nil {
		t.Logf("packets cannot be counted here: %v", err)
		return nil
	}
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000})
	p := &packets{fd: fd, own: Loopback(), ended: make(chan struct{})}
	done := make(chan struct{})
	go func() { // until the test ends
		defer close(p.ended)
		buf := make([]byte, 128)
		for {
			select {
			case <-done:
				return
			default:
			}
			n, _, err := unix.Recvfrom(fd, buf, unix.MSG_TRUNC)
			if err != nil {
				continue
			}
			dst, port := destination(buf[:min(n, len(buf))])
			switch {
			case dst == p.own:
				p.knocks.Add(1)
			case port == attackPort || slices.Contains(to, dst):
				p.seen.Add(1)
			}
		}
	}()
	t.Cleanup(func() {
		close(done)
		<-p.ended
		unix.Close(fd)
	})
	return p
}

// destination reads a packet from its IP header on; the port is 0 where there
// is none.
func destination(b []byte) (dst netip.Addr, port uint16) {
	if len(b) < 20 {
		return dst, 0
	}
	var proto byte
	var rest []byte
	switch b[0] >> 4 {
	case 4:
		head := int(b[0]&15) * 4
		if len(b) < head+4 {
			return dst, 0
		}
		dst, proto, rest = netip.AddrFrom4([4]byte(b[16:20])), b[9], b[head:]
	case 6:
		if len(b) < 44 {
			return dst, 0
		}
		dst, proto, rest = netip.AddrFrom16([16]byte(b[24:40])), b[6], b[40:]
	default:
		return dst, 0
	}
	if proto == unix.IPPROTO_TCP || proto == unix.IPPROTO_UDP {
		port = binary.BigEndian.Uint16(rest[2:4])
	}
	return dst, port
}

// settle waits until all that was on its way has been counted: until a
// datagram that is sent now has been. It may be lost where much else is sent.
func (p *packets) settle(t testing.TB) {
	t.Helper()
	n := p.knocks.Load()
	for end := time.Now().Add(patience); p.knocks.Load() <= n; time.Sleep(10 * time.Millisecond) {
		p.knock(t)
		if time.Now().After(end) {
			t.Fatal("the counter does not count")
		}
	}
}

// knock sends one datagram from the host to itself.
func (p *packets) knock(t testing.TB) {
	t.Helper()
	c, err := net.Dial("udp", netip.AddrPortFrom(p.own, 9).String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
}
