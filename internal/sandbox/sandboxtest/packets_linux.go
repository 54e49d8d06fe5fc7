package sandboxtest

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// attackPort is what a sandbox tries, knockPort what the test itself does.
const attackPort, knockPort = 47123, 47124

// packets counts what passes any interface of the host towards addresses that
// nobody uses, or towards attackPort.
type packets struct {
	fd     int
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
	p := &packets{fd: fd, ended: make(chan struct{})}
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
			case port == knockPort:
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
// datagram that is sent now has been.
func (p *packets) settle(t testing.TB) {
	t.Helper()
	n := p.knocks.Load()
	knock(t)
	for end := time.Now().Add(10 * time.Second); p.knocks.Load() <= n; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the counter does not count")
		}
	}
}

// knock sends one datagram from the host to knockPort.
func knock(t testing.TB) {
	t.Helper()
	c, err := net.Dial("udp", "127.0.0.1:"+strconv.Itoa(knockPort))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
}
