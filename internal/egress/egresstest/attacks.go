// Package egresstest is what a session may send to its proxy to get around an
// allow-list, for the proxy's own test and for every sandbox's.
package egresstest

import "strings"

// What the attacks are about: AllowedHost may be reached on the ports 80 and
// 443, and nothing else.
const AllowedHost = "api.test"

// Hosts are all names that the attacks' resolver knows, with their addresses.
// The allowed one has the address Good.
var Hosts = map[string]string{AllowedHost: Good, "evil.test": Evil, "api.test.evil.test": Evil}

// Public addresses of the allowed host and of another.
const (
	Good = "93.184.216.34"
	Evil = "93.184.216.66"
)

// Get is a request of the absolute form.
func Get(host, header string) string {
	return "GET http://" + host + "/ HTTP/1.1\r\nHost: " + header + "\r\nConnection: close\r\n\r\n"
}

// Connect asks for a tunnel.
func Connect(host string) string {
	return "CONNECT " + host + " HTTP/1.1\r\nHost: " + host + "\r\n\r\n"
}

// The kinds of addresses of SOCKS5.
const (
	socksIPv4 = 1
	socksName = 3
	socksIPv6 = 4
)

func socks(kind byte, addr string, port uint16) string {
	return "\x05\x01\x00\x05\x01\x00" + string([]byte{kind}) + addr + string([]byte{byte(port >> 8), byte(port)})
}

func socksFor(name string, port uint16) string {
	return socks(socksName, string([]byte{byte(len(name))})+name, port)
}

const post = "POST http://api.test/ HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n"

// Refused are requests by what is wrong with them. The answer of the proxy is
// one that Refusal knows, no name is looked up and nothing is dialled.
var Refused = map[string]string{
	"NUL before":                          Get("evil.test\x00.api.test", "api.test"),
	"NUL behind":                          Get("api.test\x00.evil.test", "api.test"),
	"NUL, CONNECT":                        Connect("api.test\x00.evil.test:443"),
	"NUL, SOCKS":                          socksFor("evil.test\x00api.test", 443),
	"NUL, SOCKS, swapped":                 socksFor("api.test\x00.evil.test", 443),
	"percent NUL":                         Get("api.test%00.evil.test", "api.test"),
	"percent dot":                         Get("evil%2etest", "evil.test"),
	"suffix":                              Get("api.test.evil.test", "api.test.evil.test"),
	"suffix, SOCKS":                       socksFor("api.test.evil.test", 80),
	"prefix":                              Get("evilapi.test", "evilapi.test"),
	"two dots":                            Get("api.test..", "api.test.."),
	"subdomain":                           Get("x.api.test", "x.api.test"),
	"data in labels":                      Get("c2VjcmV0.data.api.test", "c2VjcmV0.data.api.test"),
	"homoglyph":                           Get("аpi.test", "аpi.test"),
	"its punycode":                        Get("xn--pi-6kc.test", "xn--pi-6kc.test"),
	"bad punycode":                        Get("xn--a.test", "xn--a.test"),
	"userinfo":                            Get("api.test@evil.test", "evil.test"),
	"userinfo with port":                  Get("api.test:80@evil.test", "evil.test"),
	"userinfo of the allowed":             Get("evil.test@api.test", "api.test"),
	"userinfo, CONNECT":                   Connect("api.test:443@evil.test:443"),
	"backslash":                           Get(`evil.test\@api.test`, "api.test"),
	"backslash, other way":                Get(`api.test\.evil.test`, "api.test"),
	"fragment":                            "GET http://evil.test#@api.test/ HTTP/1.1\r\nHost: api.test\r\n\r\n",
	"question mark":                       "GET http://evil.test?@api.test/ HTTP/1.1\r\nHost: api.test\r\n\r\n",
	"tab":                                 Get("api.test\t.evil.test", "api.test"),
	"loopback":                            Get("127.0.0.1", "127.0.0.1"),
	"the address itself":                  Get(Good, Good),
	"the address, SOCKS":                  socks(socksIPv4, "\x5d\xb8\xd8\x22", 80),
	"loopback as one number":              Get("2130706433", "2130706433"),
	"loopback in hexadecimal":             Get("0x7f000001", "0x7f000001"),
	"loopback in octal":                   Get("0177.0.0.1", "0177.0.0.1"),
	"loopback cut short":                  Get("127.1", "127.1"),
	"loopback, a number by name in SOCKS": socksFor("2130706433", 80),
	"metadata":                            Get("169.254.169.254", "169.254.169.254"),
	"metadata, mapped":                    Get("[::ffff:169.254.169.254]", "[::ffff:169.254.169.254]"),
	"metadata, mapped, SOCKS":             socks(socksIPv6, "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xa9\xfe\xa9\xfe", 80),
	"metadata, IPv6":                      Connect("[fd00:ec2::254]:80"),
	"a zone id":                           Connect("[fe80::1%25eth0]:80"),
	"full-width digits":                   Get("１６９.254.169.254", "169.254.169.254"),
	"Host is another":                     Get("api.test", "evil.test"),
	"Host is another, port":               Get("api.test", "api.test:8080"),
	"Host is another, CONNECT":            "CONNECT api.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n",
	"CONNECT with a body":                 "CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\nContent-Length: 3\r\n\r\nabc",
	"two Hosts":                           "GET http://api.test/ HTTP/1.1\r\nHost: api.test\r\nHost: evil.test\r\n\r\n",
	"no Host":                             "GET http://api.test/ HTTP/1.1\r\n\r\n",
	"port 22":                             Connect("api.test:22"),
	"port 22, SOCKS":                      socksFor("api.test", 22),
	"port 22, plain":                      Get("api.test:22", "api.test:22"),
	"port beyond":                         Connect("api.test:65979"),
	"port with zeros":                     Connect("api.test:0443"),
	"another scheme":                      "GET https://api.test/ HTTP/1.1\r\nHost: api.test\r\n\r\n",
	"no scheme":                           "GET / HTTP/1.1\r\nHost: api.test\r\n\r\n",
	"length and chunks":                   post + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /",
	"chunks and length":                   post + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\nGET /",
	"two lengths":                         post + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
	"a list of lengths":                   post + "Content-Length: 5, 5\r\n\r\nhello",
	"a signed length":                     post + "Content-Length: +5\r\n\r\nhello",
	"two encodings":                       post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
	"an odd encoding":                     post + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
	"a hidden encoding":                   post + "Transfer-Encoding : chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
	"a folded header":                     post + "X: a\r\n Content-Length: 5\r\n\r\nhello",
	"a bare LF":                           "GET http://api.test/ HTTP/1.1\nHost: api.test\n\n",
	"a bare CR":                           "GET http://api.test/ HTTP/1.1\r\nHost: api.test\r\nX: a\rHost: evil.test\r\n\r\n",
	"a NUL in a header":                   "GET http://api.test/ HTTP/1.1\r\nHost: api.test\r\nX: a\x00\r\n\r\n",
	"a space in the path":                 "GET http://api.test/ HTTP/1.1 HTTP/1.1\r\nHost: api.test\r\n\r\n",
	"HTTP/2 from the start":               "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
	"HTTP/0.9":                            "GET http://api.test/\r\n\r\n",
	"headers of 100 KB":                   "GET http://api.test/ HTTP/1.1\r\nHost: api.test\r\nX: " + strings.Repeat("x", 100<<10) + "\r\n\r\n",
	"SOCKS4":                              "\x04\x01\x00\x50\x00\x00\x00\x01\x00evil.test\x00",
}

// Reached are ways to write the allowed host; each reaches it, at its own
// address on port 80.
var Reached = map[string]string{
	"plain": Get("api.test", "api.test"), "upper case": Get("API.TEST", "Api.Test"), "trailing dot": Get("api.test.", "api.test"),
	"the usual port": Get("api.test:80", "api.test"), "wide dot": Get("api．test", "api.test"), "SOCKS": socksFor("API.test.", 80) + "GET / HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n\r\n",
}

// Refusal says whether an answer to a request is the proxy's refusal.
func Refusal(request, answer string) bool {
	if strings.HasPrefix(request, "\x05") {
		return strings.HasPrefix(answer, "\x05\x00\x05\x02")
	}
	return strings.HasPrefix(answer, "HTTP/1.1 4")
}
