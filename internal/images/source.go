package images

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net"
	"net/http"
	"runtime"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// source is an image wherever it is.
type source struct {
	digest string // of its configuration, which names the content of every layer
	env    []string
	config v1.ConfigFile
	layers []layer
	file   fs.FileInfo // of the archive that it is in, or nil
	close  func()
}

// layer is one as it is stored.
type layer struct {
	open   func(context.Context) (io.ReadCloser, error)
	digest v1.Hash // of what open gives; zero where nobody says
	size   int64   // of what open gives; -1 where nobody says
}

// Bounds on what describes an image.
const (
	maxConfig   = 8 << 20
	maxManifest = 8 << 20
	maxLayers   = 512
)

// find looks an image up. Nothing is unpacked yet.
func (s *Store) find(ctx context.Context, ref string) (*source, error) {
	if isPath(ref) {
		return s.local(ctx, ref)
	}
	return s.remote(ctx, strings.TrimPrefix(ref, "docker://"))
}

// isPath tells a path from a registry's reference.
func isPath(ref string) bool { return strings.HasPrefix(ref, "/") || strings.HasPrefix(ref, ".") }

// remote looks up an image of a registry.
func (s *Store) remote(ctx context.Context, ref string) (*source, error) {
	r, err := name.ParseReference(ref)
	if err != nil {
		return nil, &Error{Problem: "it is no reference", Cure: "write one such as docker.io/library/python:3.13, or begin a path with / or ./", Err: err}
	}
	const cure = "look whether it is there, whether this machine reaches the registry, and whether docker login was done"
	img, err := remote.Image(r, remote.WithContext(ctx), remote.WithAuthFromKeychain(s.cfg.Keychain),
		remote.WithTransport(s.cfg.Transport), remote.WithPlatform(platform()), remote.WithUserAgent("berth"))
	if err != nil {
		return nil, &Error{Problem: "the registry does not give it", Cure: cure, Err: err}
	}
	config, err := img.RawConfigFile()
	if err != nil {
		return nil, &Error{Problem: "the registry does not give its configuration", Cure: cure, Err: err}
	}
	m, err := img.Manifest()
	if err != nil {
		return nil, &Error{Problem: "its manifest cannot be read", Cure: cure, Err: err}
	}
	return newSource(config, m.Config.Digest, m.Layers, func(d v1.Descriptor) (func(context.Context) (io.ReadCloser, error), error) {
		l, err := img.LayerByDigest(d.Digest)
		if err != nil {
			return nil, err
		}
		return func(context.Context) (io.ReadCloser, error) { return l.Compressed() }, nil
	})
}

// newSource checks what describes an image.
func newSource(config []byte, digest v1.Hash, layers []v1.Descriptor,
	open func(v1.Descriptor) (func(context.Context) (io.ReadCloser, error), error)) (*source, error) {
	sum := sha256.Sum256(config)
	src := &source{digest: "sha256:" + hex.EncodeToString(sum[:]), close: func() {}}
	if digest != (v1.Hash{}) && digest.String() != src.digest {
		return nil, &Error{Problem: "its configuration is not what its digest says", Cure: damaged}
	}
	if err := json.NewDecoder(bytes.NewReader(config)).Decode(&src.config); err != nil {
		return nil, &Error{Problem: "its configuration cannot be read", Cure: damaged, Err: err}
	}
	switch c := src.config; {
	case c.OS != "" && c.OS != "linux" || c.Architecture != "" && c.Architecture != runtime.GOARCH:
		return nil, &Error{Problem: fmt.Sprintf("it is for %s/%s, and this machine is linux/%s", c.OS, c.Architecture, runtime.GOARCH), Cure: "use one for this machine"}
	case len(c.RootFS.DiffIDs) != len(layers):
		return nil, &Error{Problem: fmt.Sprintf("its configuration names %d layers, and it has %d", len(c.RootFS.DiffIDs), len(layers)), Cure: damaged}
	case len(layers) > maxLayers:
		return nil, &Error{Problem: fmt.Sprintf("it has more than %d layers", maxLayers), Cure: "use another image"}
	}
	for _, kv := range src.config.Config.Env {
		if k, _, ok := strings.Cut(kv, "="); ok && k != "" && !strings.ContainsRune(kv, 0) {
			src.env = append(src.env, kv)
		}
	}
	for _, d := range layers {
		if len(d.URLs) > 0 {
			return nil, &Error{Problem: "one of its layers is somewhere else", Cure: "use an image with all its layers"}
		}
		from, err := open(d)
		if err != nil {
			return nil, err
		}
		src.layers = append(src.layers, layer{open: from, digest: d.Digest, size: d.Size})
	}
	return src, nil
}

const damaged = "it is damaged: get it again"

func platform() v1.Platform { return v1.Platform{OS: "linux", Architecture: runtime.GOARCH} }

// fits says whether an image of a list is for this machine.
func fits(p *v1.Platform) bool {
	return p == nil || p.OS == "linux" && p.Architecture == runtime.GOARCH && (p.Variant == "" || runtime.GOARCH != "arm" || p.Variant == "v7")
}

// onlyTLS refuses plain HTTP to other machines.
type onlyTLS struct{ next http.RoundTripper }

func (o onlyTLS) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" {
		host := r.URL.Hostname()
		if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return nil, fmt.Errorf("%s would be asked without TLS", host)
		}
	}
	return o.next.RoundTrip(r)
}

// checked is a stream that ends with an error when it is not what its digest
// and size say.
type checked struct {
	r    io.Reader
	want v1.Hash
	sum  hash.Hash
	left int64 // -1 for any
}

func check(r io.Reader, want v1.Hash, size int64) *checked {
	return &checked{r: r, want: want, sum: sha256.New(), left: size}
}

func (c *checked) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.sum.Write(p[:n])
	if c.left >= 0 {
		if c.left -= int64(n); c.left < 0 {
			return 0, &Error{Problem: "a part of it is longer than it says", Cure: damaged}
		}
	}
	if err == io.EOF {
		if c.left > 0 {
			return n, &Error{Problem: "a part of it is shorter than it says", Cure: damaged}
		}
		if c.want != (v1.Hash{}) && (c.want.Algorithm != "sha256" || c.want.Hex != hex.EncodeToString(c.sum.Sum(nil))) {
			return n, &Error{Problem: "a part of it is not what its digest " + c.want.String() + " says", Cure: damaged}
		}
	}
	return n, err
}
