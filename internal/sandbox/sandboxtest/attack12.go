package sandboxtest

import (
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/toolset"
)

// nowhere are addresses that nobody here uses, of the kinds that matter.
var nowhere = []string{"203.0.113.77", "10.203.0.77", "172.31.203.77", "192.168.203.77", "100.64.203.77", "169.254.169.254", "224.0.0.251", "255.255.255.255",
	"2001:db8::77", "fd00:ec2::254", "fe80::77"}

// python sends what bash cannot.
const python = `
import socket, sys
port = int(sys.argv[1])
def tried(what, family, kind, proto, to, data=b"x" * 32):
    try:
        s = socket.socket(family, kind, proto)
        s.settimeout(0.2)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        s.sendto(data, to)
        print("sent:", what, to)
    except OSError:
        pass
for host in sys.argv[2:]:
    six = ":" in host
    family = socket.AF_INET6 if six else socket.AF_INET
    tried("udp", family, socket.SOCK_DGRAM, 0, (host, port))
    tried("icmp", family, socket.SOCK_RAW, 58 if six else 1, (host, 0), b"\x08\x00\xf7\xff\x00\x00\x00\x00")
    tried("ping", family, socket.SOCK_DGRAM, 58 if six else 1, (host, 0), b"\x08\x00\xf7\xff\x00\x00\x00\x00")
    tried("raw", family, socket.SOCK_RAW, 255, (host, 0))
    if not six:
        tried("mapped", socket.AF_INET6, socket.SOCK_DGRAM, 0, ("::ffff:" + host, port))
for what, make in {
    "packet": lambda: socket.socket(17, socket.SOCK_RAW, 768),
    "vsock": lambda: socket.socket(40, socket.SOCK_STREAM).connect((2, port)),
    "bluetooth": lambda: socket.socket(31, socket.SOCK_RAW, 1),
    "alg": lambda: socket.socket(38, socket.SOCK_SEQPACKET, 0),
}.items():
    try:
        make()
        print("made:", what)
    except OSError:
        pass
`

// testAttack12: a sandbox without a network tries every door there is, with
// proxy variables set. A counter outside sees no packet of it.
func testAttack12(t *testing.T, d sandbox.Driver) {
	var watched []netip.Addr
	for _, a := range nowhere {
		if a != "224.0.0.251" && a != "255.255.255.255" && a != "169.254.169.254" { // others on the host may use these
			watched = append(watched, netip.MustParseAddr(a))
		}
	}
	port := strconv.Itoa(attackPort)
	targets := append([]string{"127.0.0.1", "::1"}, nowhere...)
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLoopback() && !n.IP.IsLinkLocalUnicast() {
			targets = append(targets, n.IP.String())
		}
	}
	count := countPackets(t, watched)
	if count != nil {
		count.settle(t)
	}
	w := Start(t, d, func(s *sandbox.Spec) {
		s.Env = map[string]string{"HTTPS_PROXY": "http://203.0.113.77:" + port, "http_proxy": "http://203.0.113.77:" + port, "ALL_PROXY": "socks5h://10.203.0.77:" + port}
	})
	before := int64(0)
	if count != nil {
		before = count.seen.Load()
	}
	// TCP, also to addresses in odd forms. What the sandbox sends to its own
	// loopback is its own affair.
	for _, host := range append(targets[2:], "2852039166", "0xcb00714d", "0313.0.0161.0115", "::ffff:203.0.113.77", "::ffff:169.254.169.254") {
		w.Want("(exec 3<>/dev/tcp/"+host+"/"+port+") 2>/dev/null", "", toolset.Exited, 1)
	}
	// UDP: bash says that it could be sent, the network namespace has nowhere to.
	for _, host := range targets[2:] {
		w.Do("(echo x >/dev/udp/" + host + "/" + port + ") 2>/dev/null; (echo x >/dev/udp/" + host + "/53) 2>/dev/null")
	}
	w.Want("getent hosts example.com 2>&-; getent ahosts evil.test 2>&-; (exec 3<>/dev/tcp/example.com/443) 2>/dev/null", "", toolset.Exited, 1)
	if w.Do("command -v curl").ExitCode == 0 {
		// DNS over HTTPS, by address and through the proxy that variables name.
		w.Do("curl -skm 2 https://203.0.113.77:" + port + "/dns-query; curl -sm 2 --noproxy '*' http://169.254.169.254/; curl -sm 2 http://example.com/")
	}
	if w.Do("command -v python3").ExitCode == 0 {
		out := Output(w.Do("python3 - " + port + " " + strings.Join(targets[2:], " ") + " <<'PROGRAM'\n" + python + "PROGRAM"))
		if strings.Contains(out, "Traceback") {
			t.Error(out)
		}
		for line := range strings.Lines(out) {
			t.Errorf("%s", strings.TrimSpace(line))
		}
	}
	w.Want("ls /var/run/docker.sock /run/docker.sock /run/systemd/private 2>&-", "", toolset.Exited, 2)
	if count == nil {
		return
	}
	count.settle(t)
	if extra := count.seen.Load() - before; extra > 0 {
		t.Errorf("%d packets left the sandbox", extra)
	}
}
