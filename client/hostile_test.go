package client

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// certified serves TLS with a certificate for name that is good until then,
// and gives the pool of those who trust its authority.
func certified(t *testing.T, name string, until time.Time) (*httptest.Server, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: until.Add(-24 * time.Hour), NotAfter: until,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	if ip := net.ParseIP(name); ip != nil {
		cert.IPAddresses = []net.IP{ip}
	} else {
		cert.DNSNames = []string{name}
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("a request came through, with %q", r.Header.Get("Authorization"))
	}))
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	t.Cleanup(srv.Close)
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	return srv, pool
}

// A server whose certificate cannot be trusted gets no request, and the error
// says what to do.
func TestTLSThatCannotBeTrusted(t *testing.T) {
	soon, past := time.Now().Add(time.Hour), time.Now().Add(-time.Hour)
	for _, tc := range []struct {
		name, of string
		until    time.Time
		trusted  bool
		says     []string
	}{
		{"expired", "127.0.0.1", past, true, []string{"expired", "has to be renewed; or this machine's clock is wrong"}},
		{"self-signed", "127.0.0.1", soon, false, []string{"unknown authority", "SSL_CERT_FILE"}},
		{"another's", "other.test", soon, true, []string{"127.0.0.1", "is for another name; use that name in the base URL"}},
	} {
		srv, pool := certified(t, tc.of, tc.until)
		if !tc.trusted {
			pool = x509.NewCertPool()
		}
		c := New(srv.URL, Bearer("secret-token"), &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}).WithRetries(0)
		for what, err := range map[string]error{
			"a call":   second(c.Session(t.Context(), "sesn_1")),
			"a stream": second(c.Stream(t.Context(), "sesn_1", StreamOptions{})),
			"a skill":  second(c.SkillContent(t.Context(), "skill_1", "1")),
		} {
			for _, says := range tc.says {
				if err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "secret-token") {
					t.Errorf("%s, %s: %v, want %q", tc.name, what, err, says)
				}
			}
		}
		c.CloseIdleConnections()
	}
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	c := New(strings.Replace(plain.URL, "http:", "https:", 1), Bearer("secret-token"), nil).WithRetries(0)
	if err := second(c.Session(t.Context(), "sesn_1")); err == nil || !strings.Contains(err.Error(), "may have to begin with http://") {
		t.Errorf("a server without TLS: %v", err)
	}
	c.CloseIdleConnections()
}

func second[T any](_ T, err error) error { return err }

// What a download or a stream redirects to gets nothing, either.
func TestNothingFollowsToAnotherOrigin(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("the other origin was asked, with %q %q", r.Header.Get("Authorization"), r.Header.Get("X-Api-Key"))
	}))
	defer other.Close()
	c := fake(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, other.URL, http.StatusFound) })
	for what, err := range map[string]error{
		"a stream": second(c.Stream(t.Context(), "sesn_1", StreamOptions{})),
		"a skill":  second(c.SkillContent(t.Context(), "skill_1", "1")),
		"a result": second(c.SendRaw(t.Context(), "sesn_1", []byte(`{}`))),
	} {
		if err == nil || !strings.Contains(err.Error(), other.URL) || !strings.Contains(err.Error(), "make it the base URL") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// An answer that is too long is told by a typed error, after decompression,
// and is not asked for again.
func TestAnswersAreBounded(t *testing.T) {
	tries := 0
	c := fake(t, func(w http.ResponseWriter, r *http.Request) {
		tries++
		io.Copy(w, io.LimitReader(zeros{}, 1<<30))
	})
	if err := second(c.Session(t.Context(), "sesn_1")); !errors.Is(err, ErrTooLong) || tries != 1 {
		t.Errorf("%v after %d tries", err, tries)
	}
	if err := second(c.Events(t.Context(), "sesn_1", EventQuery{})); !errors.Is(err, ErrTooLong) {
		t.Errorf("a page: %v", err)
	}
}
