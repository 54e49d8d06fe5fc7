package egress

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// authority vouches for intercepted hosts towards sessions. It is one key with
// a certificate for each session, which is good for that session's hosts
// only. Safe for concurrent use.
type authority struct {
	key  *ecdsa.PrivateKey // signs
	host *ecdsa.PrivateKey // of the hosts' certificates; of this process

	mu    sync.Mutex
	hosts map[string]*tls.Certificate
}

const (
	keyName     = "ca.key"
	caLife      = 366 * 24 * time.Hour
	hostLife    = 30 * 24 * time.Hour
	hostRenewed = 10 * 24 * time.Hour // before its end
	clockSkew   = time.Hour
	maxHosts    = 1024
)

var caName = pkix.Name{CommonName: "Berth egress", Organization: []string{"Berth"}}

// openAuthority reads the key in dir, or makes one there.
func openAuthority(dir string) (*authority, error) {
	host, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("egress: %w", err)
	}
	a := &authority{host: host, hosts: map[string]*tls.Certificate{}}
	if dir == "" {
		a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		return a, err
	}
	path := filepath.Join(dir, keyName)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		b, err = makeKey(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("egress: the authority's key: %w", err)
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, fmt.Errorf("egress: %s is no key; remove it and a new one will be made", path)
	}
	if a.key, err = x509.ParseECPrivateKey(block.Bytes); err != nil {
		return nil, fmt.Errorf("egress: %s is no key (%w); remove it and a new one will be made", path, err)
	}
	return a, nil
}

// makeKey makes the key's file, in one step.
func makeKey(dir string) ([]byte, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	b := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
	f, err := os.CreateTemp(dir, keyName+".*") // 0600
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return nil, err
	}
	return b, os.Rename(f.Name(), filepath.Join(dir, keyName))
}

func serial() (*big.Int, error) { return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)) }

// template is the authority's certificate, for any host.
func (a *authority) template() (*x509.Certificate, error) {
	n, err := serial()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: n, Subject: caName, NotBefore: now.Add(-clockSkew), NotAfter: now.Add(caLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}, nil
}

// certificate is the authority as a session is to trust it: for the hosts that
// get a secret and no others.
func (a *authority) certificate(t *table) ([]byte, error) {
	tmpl, err := a.template()
	if err != nil {
		return nil, err
	}
	tmpl.PermittedDNSDomainsCritical = true
	for _, to := range t.intercepted() {
		if to.Addr.IsValid() {
			tmpl.PermittedIPRanges = append(tmpl.PermittedIPRanges, only(to.Addr))
		} else if !slices.Contains(tmpl.PermittedDNSDomains, to.Host) {
			tmpl.PermittedDNSDomains = append(tmpl.PermittedDNSDomains, to.Host)
		}
	}
	// A kind of name without any permitted one would not be constrained.
	if len(tmpl.PermittedIPRanges) == 0 {
		tmpl.ExcludedIPRanges = []*net.IPNet{{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}, {IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}}
	}
	if len(tmpl.PermittedDNSDomains) == 0 {
		tmpl.PermittedDNSDomains = []string{"none.invalid"}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, a.key.Public(), a.key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

func only(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

// forHost is the certificate that a host shows to sessions.
func (a *authority) forHost(t Target) (*tls.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	name := t.Name()
	if c := a.hosts[name]; c != nil && time.Until(c.Leaf.NotAfter) > hostRenewed {
		return c, nil
	}
	if len(a.hosts) >= maxHosts {
		clear(a.hosts)
	}
	issuer, err := a.template()
	if err != nil {
		return nil, err
	}
	// The key's name, by which the session's certificate is found as issuer.
	if issuer.SubjectKeyId, err = keyID(a.key); err != nil {
		return nil, err
	}
	n, err := serial()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber: n, Subject: pkix.Name{Organization: []string{"Berth"}}, NotBefore: now.Add(-clockSkew), NotAfter: now.Add(hostLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}
	if t.Addr.IsValid() {
		tmpl.IPAddresses = []net.IP{t.Addr.AsSlice()}
	} else {
		tmpl.DNSNames = []string{t.Host}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, issuer, a.host.Public(), a.key)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	c := &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: a.host, Leaf: leaf}
	a.hosts[name] = c
	return c, nil
}

// keyID is the name that CreateCertificate gives to an authority's key.
func keyID(key *ecdsa.PrivateKey) ([]byte, error) {
	n := big.NewInt(1)
	tmpl := &x509.Certificate{SerialNumber: n, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, err
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return c.SubjectKeyId, nil
}

// bundles are where distributions keep whom a machine trusts.
var bundles = []string{
	"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem",
	"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "/etc/ssl/cert.pem",
}

// rootsPEM are the authorities that sessions trust besides ours.
func (p *Proxy) rootsPEM() ([]byte, error) {
	if p.cfg.RootsPEM != nil {
		return p.cfg.RootsPEM, nil
	}
	for _, path := range bundles {
		if b, err := os.ReadFile(path); err == nil {
			return b, nil
		}
	}
	return nil, errors.New("no file of trusted authorities is on this machine (install ca-certificates)")
}
