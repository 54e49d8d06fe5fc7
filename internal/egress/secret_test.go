package egress

import (
	"bytes"
	"compress/gzip"
	"crypto/x509"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

func gzipOf(b []byte) []byte {
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	z.Write(b)
	z.Close()
	return buf.Bytes()
}

func verifyFor(pool *x509.CertPool, name string) x509.VerifyOptions {
	return x509.VerifyOptions{Roots: pool, DNSName: name}
}

func poolFrom(t *testing.T, pem []byte) *x509.CertPool {
	t.Helper()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		t.Fatal("no certificate")
	}
	return pool
}

// waitFor waits for what other goroutines do.
func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not happen")
		}
	}
}

// FuzzReplacer: however a stream is cut, the outcome is that of the whole.
func FuzzReplacer(f *testing.F) {
	f.Add("xxsecretyysecsecret", "secret", "sec", uint8(1))
	f.Add("aaaaab", "aab", "ab", uint8(2))
	f.Fuzz(func(t *testing.T, text, one, two string, cut uint8) {
		if one == "" || two == "" || len(one) < len(two) || one == two {
			return
		}
		swaps := []swap{{[]byte(one), []byte("<1>")}, {[]byte(two), []byte("<2>")}}
		whole, err := io.ReadAll(&replacer{from: strings.NewReader(text), swaps: swaps})
		if err != nil {
			t.Fatal(err)
		}
		parts, err := io.ReadAll(&replacer{from: &pieces{[]byte(text), int(cut%7) + 1}, swaps: swaps})
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(whole, parts) {
			t.Fatalf("%q with %q and %q: %q in one, %q in pieces", text, one, two, whole, parts)
		}
		if !strings.ContainsAny(one, "<>12") && !overlap(one, two) && !strings.Contains(one, two) && strings.Contains(string(parts), one) {
			t.Fatalf("%q is still in %q", one, parts)
		}
	})
}

// overlap says that the end of one text can be the beginning of another.
func overlap(a, b string) bool {
	for k := 1; k < min(len(a), len(b)); k++ {
		if strings.HasSuffix(a, b[:k]) || strings.HasSuffix(b, a[:k]) {
			return true
		}
	}
	return false
}

type pieces struct {
	b []byte
	n int
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.b) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.b[:min(p.n, len(p.b))])
	p.b = p.b[n:]
	return n, nil
}

// TestReplacerHoldsLittleBack: what cannot be the beginning of a secret is
// there at once.
func TestReplacerHoldsLittleBack(t *testing.T) {
	r, w := io.Pipe()
	rep := &replacer{from: r, swaps: []swap{{[]byte("secret"), []byte("***")}}}
	go func() { // ends with the pipe
		io.WriteString(w, "data: 1\n\n")
		io.WriteString(w, "data: sec")
		io.WriteString(w, "ret\n\n")
		w.Close()
	}()
	b := make([]byte, 100)
	var got []string
	for {
		n, err := rep.Read(b)
		if n > 0 {
			got = append(got, string(b[:n]))
		}
		if err != nil {
			break
		}
	}
	if want := "data: 1\n\n|data: |***\n\n"; strings.Join(got, "|") != want {
		t.Errorf("%q, want %q", got, want)
	}
	all, err := io.ReadAll(&replacer{from: iotest.OneByteReader(strings.NewReader("a secret sec")), swaps: rep.swaps})
	if string(all) != "a *** sec" || err != nil {
		t.Errorf("%q %v", all, err)
	}
}
