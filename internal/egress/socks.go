package egress

import (
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"slices"
)

// SOCKS5 (RFC 1928): CONNECT without authentication.
const (
	socksVersion = 5

	socksNoAuth   = 0x00
	socksNoMethod = 0xff
	socksConnect  = 1
	socksIPv4     = 1
	socksName     = 3
	socksIPv6     = 4

	socksDone      = 0
	socksForbidden = 2
	socksGone      = 4
	socksNoCommand = 7
	socksNoAddress = 8
)

// socks serves a SOCKS5 connection.
func (s *Session) socks(c *client) {
	var hello [2]byte
	if _, err := io.ReadFull(c.br, hello[:]); err != nil {
		return
	}
	methods := make([]byte, hello[1])
	if _, err := io.ReadFull(c.br, methods); err != nil {
		return
	}
	if !slices.Contains(methods, socksNoAuth) {
		_ = c.say([]byte{socksVersion, socksNoMethod})
		return
	}
	if c.say([]byte{socksVersion, socksNoAuth}) != nil {
		return
	}
	t, reply, err := socksTarget(c.br)
	if err != nil {
		var bad *BadHost
		if errors.As(err, &bad) {
			s.tell(Decision{Via: "socks"}.outcome(err))
		}
		if reply != 0 {
			_ = c.socksReply(reply)
		}
		return
	}
	s.tunnel(c, "socks", t, func(err error) bool {
		if err == nil {
			return c.socksReply(socksDone) == nil
		}
		var no *Refusal
		if errors.As(err, &no) {
			_ = c.socksReply(socksForbidden)
		} else {
			_ = c.socksReply(socksGone)
		}
		return false
	})
}

// socksTarget reads a request. reply is what to say when it makes no sense, 0
// for nothing.
func socksTarget(r io.Reader) (t Target, reply byte, err error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return t, 0, err
	}
	if head[0] != socksVersion || head[2] != 0 {
		return t, 0, errors.New("the request is none of SOCKS5")
	}
	var raw []byte
	switch head[3] {
	case socksIPv4:
		raw = make([]byte, 4)
	case socksIPv6:
		raw = make([]byte, 16)
	case socksName:
		var n [1]byte
		if _, err := io.ReadFull(r, n[:]); err != nil {
			return t, 0, err
		}
		raw = make([]byte, n[0])
	default:
		return t, socksNoAddress, errors.New("the kind of address is unknown")
	}
	var port [2]byte
	if _, err := io.ReadFull(r, raw); err != nil {
		return t, 0, err
	}
	if _, err := io.ReadFull(r, port[:]); err != nil {
		return t, 0, err
	}
	if head[1] != socksConnect {
		return t, socksNoCommand, errors.New("only CONNECT is served")
	}
	number := binary.BigEndian.Uint16(port[:])
	if head[3] == socksName {
		t, err = TargetOf(string(raw), number)
	} else {
		a, _ := netip.AddrFromSlice(raw)
		t, err = TargetOfAddr(a, number)
	}
	return t, socksForbidden, err
}

func (c *client) say(b []byte) error {
	_, _ = c.bw.Write(b)
	return c.bw.Flush()
}

// socksReply names no address: which one was dialled is not the session's to
// know.
func (c *client) socksReply(code byte) error {
	return c.say([]byte{socksVersion, code, 0, socksIPv4, 0, 0, 0, 0, 0, 0})
}
