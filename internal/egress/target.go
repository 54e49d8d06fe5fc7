package egress

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// Target is a host and a port in the one spelling that rules, the resolver
// and the dialler see. Only ParseTarget and its kin make one.
type Target struct {
	// Host is a lower-case ASCII name without a trailing dot, "" for an
	// address.
	Host string
	// Addr is set when an address was asked for; an IPv4 address in IPv6 dress
	// has been undressed.
	Addr netip.Addr
	Port uint16
}

// Name is the host without its port; IPv6 without brackets.
func (t Target) Name() string {
	if t.Addr.IsValid() {
		return t.Addr.String()
	}
	return t.Host
}

// String is host:port, with brackets around IPv6.
func (t Target) String() string {
	if t.Addr.IsValid() {
		return netip.AddrPortFrom(t.Addr, t.Port).String()
	}
	return t.Host + ":" + strconv.Itoa(int(t.Port))
}

// authority is the host as a Host header of the scheme has it.
func (t Target) authority(scheme string) string {
	if t.Port != defaultPort(scheme) {
		return t.String()
	}
	if t.Addr.Is6() {
		return "[" + t.Addr.String() + "]"
	}
	return t.Name()
}

func defaultPort(scheme string) uint16 {
	if scheme == "https" {
		return 443
	}
	return 80
}

// maxAuthority bounds what is parsed: a name of 253 bytes can have been
// written in more.
const maxAuthority = 1024

// ParseTarget reads host[:port]. Without a port it is defaultPort, or an error
// when that is 0. Every error is a *BadHost.
func ParseTarget(s string, defaultPort uint16) (Target, error) {
	t, err := parseTarget(s, defaultPort)
	if err != nil {
		return Target{}, &BadHost{Text: s, Why: err}
	}
	return t, nil
}

// TargetOf is ParseTarget for a host and a port that came apart, as in SOCKS.
func TargetOf(host string, port uint16) (Target, error) {
	t, err := targetOf(host, port)
	if err != nil {
		return Target{}, &BadHost{Text: host, Why: err}
	}
	return t, nil
}

// TargetOfAddr is the target that an address and a port are.
func TargetOfAddr(a netip.Addr, port uint16) (Target, error) {
	if !a.IsValid() || a.Zone() != "" || port == 0 {
		return Target{}, &BadHost{Text: a.String(), Why: errors.New("it is no address that can be dialled")}
	}
	return Target{Addr: a.Unmap(), Port: port}, nil
}

// BadHost is a host that is none, or that is not written in a way which
// everybody reads alike.
type BadHost struct {
	Text string
	Why  error
}

func (e *BadHost) Error() string {
	return fmt.Sprintf("%s is no host that can be reached: %v", quoted(e.Text), e.Why)
}

// quoted makes a stranger's text fit for a log line or an answer.
func quoted(s string) string {
	const most = 120
	if len(s) > most {
		return strconv.QuoteToASCII(s[:most]) + "…"
	}
	return strconv.QuoteToASCII(s)
}

func parseTarget(s string, port uint16) (Target, error) {
	if len(s) > maxAuthority {
		return Target{}, errors.New("it is too long")
	}
	host, digits, err := splitPort(s)
	if err != nil {
		return Target{}, err
	}
	if digits != "" {
		if port, err = parsePort(digits); err != nil {
			return Target{}, err
		}
	}
	if inner, ok := strings.CutPrefix(host, "["); ok {
		a, err := netip.ParseAddr(strings.TrimSuffix(inner, "]"))
		if err != nil || !a.Is6() || a.Zone() != "" {
			return Target{}, errors.New("between brackets belongs an IPv6 address without a zone")
		}
		return addressed(a, port)
	}
	return targetOf(host, port)
}

// splitPort cuts host:port, [v6]:port, host or [v6].
func splitPort(s string) (host, port string, err error) {
	if strings.HasPrefix(s, "[") {
		end := strings.IndexByte(s, ']')
		if end < 0 {
			return "", "", errors.New("a bracket is not closed")
		}
		host, s = s[:end+1], s[end+1:]
		if s == "" {
			return host, "", nil
		}
		if s[0] != ':' || len(s) == 1 {
			return "", "", errors.New("behind the bracket belongs a port")
		}
		return host, s[1:], nil
	}
	host, port, found := strings.Cut(s, ":")
	switch {
	case !found:
		return s, "", nil
	case strings.Contains(port, ":"):
		return "", "", errors.New("an IPv6 address belongs in brackets")
	case port == "":
		return "", "", errors.New("the port is missing")
	}
	return host, port, nil
}

func parsePort(s string) (uint16, error) {
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return 0, errors.New("the port is no number")
		}
	}
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 || s[0] == '0' {
		return 0, errors.New("the port is not between 1 and 65535")
	}
	return uint16(n), nil
}

func addressed(a netip.Addr, port uint16) (Target, error) {
	if port == 0 {
		return Target{}, errors.New("the port is missing")
	}
	return Target{Addr: a.Unmap(), Port: port}, nil
}

// lookup maps names as browsers do before they look them up (UTS 46).
var lookup = idna.New(idna.MapForLookup(), idna.StrictDomainName(false), idna.BidiRule(), idna.CheckHyphens(false))

func targetOf(host string, port uint16) (Target, error) {
	if host == "" {
		return Target{}, errors.New("the name is empty")
	}
	if len(host) > maxAuthority {
		return Target{}, errors.New("it is too long")
	}
	if !utf8.ValidString(host) {
		return Target{}, errors.New("it is not UTF-8")
	}
	for _, c := range []byte(host) {
		if c <= ' ' || c == 0x7f || strings.IndexByte(`%@/\?#:[]`, c) >= 0 {
			return Target{}, fmt.Errorf("it holds the byte 0x%02x", c)
		}
	}
	name, err := lookup.ToASCII(host)
	if err != nil {
		return Target{}, errors.New("it is no valid international name")
	}
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if err := checkName(name); err != nil {
		return Target{}, err
	}
	if numeric(name) {
		a, err := netip.ParseAddr(name)
		if err != nil || !a.Is4() {
			return Target{}, errors.New("it is neither a name nor an IPv4 address in its usual form of four decimal numbers")
		}
		return addressed(a, port)
	}
	if port == 0 {
		return Target{}, errors.New("the port is missing")
	}
	return Target{Host: name, Port: port}, nil
}

// checkName holds a name to what DNS and certificates know.
func checkName(name string) error {
	if name == "" || len(name) > 253 {
		return errors.New("a name has 1 to 253 characters")
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 {
			return errors.New("a part of a name has 1 to 63 characters")
		}
		if label[0] == '-' || label[len(label)-1] == '-' {
			return errors.New("a part of a name neither begins nor ends with a hyphen")
		}
		for _, c := range []byte(label) {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return fmt.Errorf("it holds the byte 0x%02x", c)
			}
		}
	}
	return nil
}

// numeric says that some programs would read the name as an IPv4 address: its
// last part is a number.
func numeric(name string) bool {
	last := name[strings.LastIndexByte(name, '.')+1:]
	digits := true
	for _, c := range []byte(last) {
		digits = digits && c >= '0' && c <= '9'
	}
	if digits {
		return true
	}
	hex, ok := strings.CutPrefix(last, "0x")
	if !ok {
		return false
	}
	for _, c := range []byte(hex) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
