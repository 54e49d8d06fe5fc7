package egress

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

func TestParseTarget(t *testing.T) {
	for in, want := range map[string]string{
		"api.test":                "api.test:443",
		"API.Test.":               "api.test:443",
		"api.test:8443":           "api.test:8443",
		"bücher.test":             "xn--bcher-kva.test:443",
		"BÜCHER.test":             "xn--bcher-kva.test:443",
		"xn--bcher-kva.test":      "xn--bcher-kva.test:443",
		"api。test":                "api.test:443", // an ideographic full stop
		"under_score.test":        "under_score.test:443",
		"r3---sn-x.test":          "r3---sn-x.test:443",
		"1.2.3.4":                 "1.2.3.4:443",
		"１.２.３.４":                 "1.2.3.4:443", // full width
		"[2001:DB8:0:0::1]:80":    "[2001:db8::1]:80",
		"[::ffff:10.0.0.1]":       "10.0.0.1:443",
		"[::ffff:0a00:1]:22":      "10.0.0.1:22",
		"localhost":               "localhost:443",
		"api.test:00443":          "",
		"api.test:0":              "",
		"api.test:65536":          "",
		"api.test:":               "",
		"api.test:+80":            "",
		"api.test:443:443":        "",
		"api.test\x00.evil.test":  "",
		"evil.test\x00.api.test":  "",
		"api.test%00.evil.test":   "",
		"api.test%2eevil.test":    "",
		"user@api.test":           "",
		"api.test@evil.test":      "",
		"api.test/x":              "",
		"api.test\\x":             "",
		"api.test?x":              "",
		"api.test#x":              "",
		"api.test ":               "",
		" api.test":               "",
		"api.test\r\nHost: x":     "",
		"api..test":               "",
		"api.test..":              "",
		".api.test":               "",
		".":                       "",
		"":                        "",
		"-api.test":               "",
		"xn--a.test":              "", // no valid punycode
		"\xff.test":               "",
		"2130706433":              "",
		"0x7f000001":              "",
		"0x7f.1":                  "",
		"127.1":                   "",
		"0177.0.0.1":              "",
		"127.0.0.1.":              "127.0.0.1:443",
		"1.2.3.4.5":               "",
		"256.1.1.1":               "",
		"api.0x":                  "",
		"[fe80::1%25eth0]":        "",
		"[fe80::1%eth0]":          "",
		"[::1":                    "",
		"[::1]x":                  "",
		"[::1]:":                  "",
		"[127.0.0.1]":             "",
		"::1":                     "",
		"fe80::1":                 "",
		strings.Repeat("a", 64):   "",
		strings.Repeat("a.", 128): "",
		strings.Repeat("x", 5000): "",
	} {
		got, err := ParseTarget(in, 443)
		if want == "" {
			var bad *BadHost
			if !errors.As(err, &bad) {
				t.Errorf("ParseTarget(%q) = %v, %v", in, got, err)
			}
			continue
		}
		if err != nil || got.String() != want {
			t.Errorf("ParseTarget(%q) = %v, %v, want %s", in, got, err, want)
		}
	}
	if _, err := ParseTarget("api.test", 0); err == nil {
		t.Error("a port was made up")
	}
}

// FuzzTarget: whatever is accepted is in the one spelling that reads back as
// itself, holds nothing that another program could read otherwise, and fits a
// rule made of it and no other.
func FuzzTarget(f *testing.F) {
	for _, s := range []string{"api.test", "API.test.:443", "[::ffff:1.2.3.4]:80", "bücher.test", "0x7f.1", "a\x00b", "１２７.0.0.1", "xn--", "a.b%00", "[fe80::1%1]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		to, err := ParseTarget(s, 443)
		if err != nil {
			return
		}
		again, err := ParseTarget(to.String(), 0)
		if err != nil || again != to {
			t.Fatalf("%q is %v, which reads as %v, %v", s, to, again, err)
		}
		name := to.Name()
		for _, c := range []byte(name) {
			if c <= ' ' || c >= 0x7f || c >= 'A' && c <= 'Z' || strings.IndexByte("%@/\\", c) >= 0 {
				t.Fatalf("%q is %q", s, name)
			}
		}
		a, errAddr := netip.ParseAddr(name)
		if (errAddr == nil) != to.Addr.IsValid() || errAddr == nil && (a != to.Addr || a.Is4In6() || a.Zone() != "") {
			t.Fatalf("%q is %q, an address to some", s, name)
		}
		tab, err := compile(Rules{Allow: []Rule{{Host: to.String()}}})
		if err != nil {
			t.Fatalf("%v: %v", to, err)
		}
		if r, _ := tab.find(to); r == nil {
			t.Fatalf("%v does not fit itself", to)
		}
		for _, other := range []Target{{Host: "x" + to.Host, Addr: to.Addr, Port: to.Port ^ 1}, {Host: to.Host + ".evil.test", Port: to.Port}} {
			if r, _ := tab.find(other); r != nil && other.Port != 0 {
				t.Fatalf("%v fits %v", other, to)
			}
		}
	})
}

// FuzzRule: a pattern that can be read matches what it says and its kin only.
func FuzzRule(f *testing.F) {
	for _, s := range []string{"*.api.test", "10.0.0.0/8:80", "[fd00::/8]:443", "fd00::/8", "*.*.x", "*", "*.1.2.3.4", "a/b"} {
		f.Add(s, "x.api.test")
	}
	f.Fuzz(func(t *testing.T, pattern, host string) {
		tab, err := compile(Rules{Allow: []Rule{{Host: pattern}}})
		to, errTarget := ParseTarget(host, 443)
		if err != nil || errTarget != nil {
			return
		}
		r, _ := tab.find(to)
		if r == nil {
			return
		}
		switch {
		case r.prefix.IsValid():
			if !r.prefix.Contains(to.Addr) {
				t.Fatalf("%q lets %v out", pattern, to)
			}
		case r.sub:
			if len(to.Host) <= len(r.host)+1 || !strings.HasSuffix(to.Host, "."+r.host) {
				t.Fatalf("%q lets %v out", pattern, to)
			}
		default:
			if to.Host != r.host {
				t.Fatalf("%q lets %v out", pattern, to)
			}
		}
	})
}

func TestRules(t *testing.T) {
	tab, err := compile(Rules{Allow: []Rule{
		{ID: "api", Host: "API.test."}, {Host: "*.wild.test"}, {Host: "odd.test:8443"}, {Host: "10.1.0.0/16"},
		{Host: "[fd00::/8]:22"}, {Host: "fd01::/16"}, {Host: "192.0.2.7:9"}, {Host: "0.0.0.0/0:53"}, {Host: "[2001:db8::1]"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]string{
		"api.test": "api", "api.test:80": "api", "api.test:22": "", "x.api.test": "", "xapi.test": "", "api.test.evil.test": "",
		"wild.test": "", "a.wild.test": "*.wild.test", "a.b.wild.test:80": "*.wild.test", "awild.test": "",
		"odd.test": "", "odd.test:8443": "odd.test:8443", "10.1.2.3": "10.1.0.0/16", "10.2.0.0": "", "[::ffff:10.1.2.3]": "10.1.0.0/16",
		"[fd33::1]:22": "[fd00::/8]:22", "[fd01::1]": "fd01::/16", "192.0.2.7:9": "192.0.2.7:9", "192.0.2.7": "",
		"9.9.9.9:53": "0.0.0.0/0:53", "[2001:db8::1]": "[2001:db8::1]",
	} {
		to, err := ParseTarget(host, 443)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if r, _ := tab.find(to); r != nil {
			got = r.id
		}
		if got != want {
			t.Errorf("%s: rule %q, want %q", host, got, want)
		}
	}
	for _, bad := range []string{"", "*", "*.", "*.1.2.3.4", "a.*.test", "**.test", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/8:", "[fd00::/8]x", "fd00::1", "http://a.test", "a.test/x", "::ffff:0:0/96", "0x7f.1", "a b"} {
		if err := (Rules{Allow: []Rule{{Host: bad}}}).Check(); err == nil {
			t.Errorf("%q is a rule", bad)
		}
	}
}

func TestKinds(t *testing.T) {
	own := []netip.Addr{netip.MustParseAddr("93.184.216.9")}
	for s, want := range map[string]kind{
		"8.8.8.8": public, "2606:4700::1": public, "10.0.0.1": private, "172.31.0.1": private, "172.32.0.1": public, "192.168.1.1": private,
		"100.64.0.1": private, "100.100.100.200": metadata, "127.0.0.53": loopback, "169.254.169.254": linkLocal, "0.0.0.0": special,
		"224.0.0.1": multicast, "255.255.255.255": special, "::": embedded, "::1": loopback, "::ffff:10.0.0.1": private,
		"::ffff:8.8.8.8": public, "64:ff9b::a00:1": embedded, "2002:a00:1::": embedded, "2001::1": embedded, "fe80::1": linkLocal,
		"fd00:ec2::254": metadata, "fd12::1": private, "ff02::1": multicast, "4000::1": special, "93.184.216.9": loopback, "168.63.129.16": metadata,
	} {
		if got := kindOf(netip.MustParseAddr(s), own); got != want {
			t.Errorf("%s is %q, want %q", s, got, want)
		}
	}
}

func TestHiddenStaysHidden(t *testing.T) {
	s := Secret{Name: "token", Value: Hide("sk-very-secret")}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		if got := fmt.Sprintf(verb, s); strings.Contains(got, "sk-very") || strings.Contains(got, "736b2d76") {
			t.Errorf("%s shows %s", verb, got)
		}
	}
}
