package egress

import "net/netip"

// kind is what an address is for.
type kind string

const (
	public    kind = "public"
	loopback  kind = "of this machine"
	private   kind = "in a private network"
	linkLocal kind = "link-local, where clouds keep their metadata"
	metadata  kind = "where a cloud keeps its metadata"
	multicast kind = "a multicast address"
	special   kind = "reserved for a special purpose"
	embedded  kind = "another address in disguise"
)

// opened says whether Rule.Private opens the kind.
func (k kind) opened() bool { return k == loopback || k == private }

// block is a range of addresses that are not simply somebody on the internet.
type block struct {
	prefix netip.Prefix
	kind   kind
}

// blocks are the registries of special addresses (RFC 6890 and its updates);
// of two that hold an address the first counts.
var blocks = []block{
	{netip.MustParsePrefix("100.100.100.200/32"), metadata},
	{netip.MustParsePrefix("168.63.129.16/32"), metadata},
	{netip.MustParsePrefix("192.0.0.192/32"), metadata},
	{netip.MustParsePrefix("fd00:ec2::/32"), metadata},
	{netip.MustParsePrefix("fd20:ce::254/128"), metadata},

	{netip.MustParsePrefix("0.0.0.0/8"), special},
	{netip.MustParsePrefix("10.0.0.0/8"), private},
	{netip.MustParsePrefix("100.64.0.0/10"), private},
	{netip.MustParsePrefix("127.0.0.0/8"), loopback},
	{netip.MustParsePrefix("169.254.0.0/16"), linkLocal},
	{netip.MustParsePrefix("172.16.0.0/12"), private},
	{netip.MustParsePrefix("192.0.0.0/24"), special},
	{netip.MustParsePrefix("192.0.2.0/24"), special},
	{netip.MustParsePrefix("192.31.196.0/24"), special},
	{netip.MustParsePrefix("192.52.193.0/24"), special},
	{netip.MustParsePrefix("192.88.99.0/24"), embedded},
	{netip.MustParsePrefix("192.168.0.0/16"), private},
	{netip.MustParsePrefix("192.175.48.0/24"), special},
	{netip.MustParsePrefix("198.18.0.0/15"), private},
	{netip.MustParsePrefix("198.51.100.0/24"), special},
	{netip.MustParsePrefix("203.0.113.0/24"), special},
	{netip.MustParsePrefix("224.0.0.0/4"), multicast},
	{netip.MustParsePrefix("240.0.0.0/4"), special},

	{netip.MustParsePrefix("::1/128"), loopback},
	{netip.MustParsePrefix("::/96"), embedded},
	{netip.MustParsePrefix("64:ff9b::/96"), embedded},
	{netip.MustParsePrefix("64:ff9b:1::/48"), embedded},
	{netip.MustParsePrefix("2001::/32"), embedded},
	{netip.MustParsePrefix("2001::/23"), special},
	{netip.MustParsePrefix("2001:db8::/32"), special},
	{netip.MustParsePrefix("2002::/16"), embedded},
	{netip.MustParsePrefix("3fff::/20"), special},
	{netip.MustParsePrefix("fc00::/7"), private},
	{netip.MustParsePrefix("fe80::/10"), linkLocal},
	{netip.MustParsePrefix("fec0::/10"), private},
	{netip.MustParsePrefix("ff00::/8"), multicast},
}

// unicast is all of IPv6 that is given out.
var unicast = netip.MustParsePrefix("2000::/3")

func find(a netip.Addr) (block, bool) {
	for _, b := range blocks {
		if b.prefix.Contains(a) {
			return b, true
		}
	}
	return block{}, false
}

// kindOf says what an address is for. own are this machine's addresses.
func kindOf(a netip.Addr, own []netip.Addr) kind {
	a = a.Unmap()
	if b, ok := find(a); ok {
		return b.kind
	}
	if a.Is6() && !unicast.Contains(a) {
		return special
	}
	for _, o := range own {
		if o == a {
			return loopback
		}
	}
	return public
}

// specialBits is the length of the block that an address lies in; one that is
// in none is a block of its own.
func specialBits(a netip.Addr) int {
	if b, ok := find(a); ok {
		return b.prefix.Bits()
	}
	return a.BitLen()
}
