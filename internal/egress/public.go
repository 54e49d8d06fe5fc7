package egress

import "net/netip"

// Public says whether an address is simply somebody on the internet, and if
// not what it is. The addresses of this machine are not.
func Public(a netip.Addr) (ok bool, what string) {
	k := kindOf(a, ownAddresses())
	return k == public, string(k)
}
