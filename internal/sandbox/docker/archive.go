package docker

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// maxImage bounds an image that lies in a file.
const maxImage = 64 << 30

// openImage gives the one image in a Docker or OCI tarball or in an OCI layout
// directory, until done is called.
func openImage(path string) (im v1.Image, done func(), err error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, nil, err
	}
	if st.IsDir() {
		im, err = ofLayout(path)
		return im, func() {}, err
	}
	oci, err := hasMember(path, "oci-layout")
	if err != nil {
		return nil, nil, err
	}
	docker, err := hasMember(path, "manifest.json")
	if err != nil {
		return nil, nil, err
	}
	switch {
	case docker:
		im, err = tarball.ImageFromPath(path, nil)
		return im, func() {}, err
	case !oci:
		return nil, nil, errors.New("it is neither a Docker nor an OCI tarball: it has neither manifest.json nor oci-layout")
	}
	dir, err := os.MkdirTemp("", "berth-image-")
	if err != nil {
		return nil, nil, err
	}
	done = func() { os.RemoveAll(dir) }
	if err = unpackLayout(path, dir); err == nil {
		im, err = ofLayout(dir)
	}
	if err != nil {
		done()
		return nil, nil, err
	}
	return im, done, nil
}

func ofLayout(dir string) (v1.Image, error) {
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, fmt.Errorf("%s is no OCI layout: %w", dir, err)
	}
	return only(index)
}

// only gives the image of an index: its single one, or the one for this
// machine.
func only(index v1.ImageIndex) (v1.Image, error) {
	m, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	fit := slices.DeleteFunc(slices.Clone(m.Manifests), func(d v1.Descriptor) bool {
		return d.Platform != nil && (d.Platform.OS != "linux" || d.Platform.Architecture != arch)
	})
	if len(fit) != 1 {
		return nil, fmt.Errorf("of its %d images %d are for linux/%s; one must be", len(m.Manifests), len(fit), arch)
	}
	if fit[0].MediaType.IsIndex() {
		below, err := index.ImageIndex(fit[0].Digest)
		if err != nil {
			return nil, err
		}
		return only(below)
	}
	return index.Image(fit[0].Digest)
}

// hasMember says whether a tarball has a member of that name at its top.
func hasMember(path, member string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err == io.EOF {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("it is no tarball: %w", err)
		}
		if filepath.Clean(h.Name) == member {
			return true, nil
		}
	}
}

// layoutMember are the names in an OCI layout; nothing else is unpacked.
var layoutMember = regexp.MustCompile(`^(oci-layout|index\.json|blobs/[a-z0-9]{1,16}/[0-9a-f]{32,128})$`)

func unpackLayout(path, dir string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	left := int64(maxImage)
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		member := filepath.Clean(h.Name)
		if h.Typeflag != tar.TypeReg || !layoutMember.MatchString(member) {
			continue
		}
		if left -= h.Size; left < 0 {
			return fmt.Errorf("it is larger than %d bytes", int64(maxImage))
		}
		at := filepath.Join(dir, member)
		if err := os.MkdirAll(filepath.Dir(at), 0o700); err != nil {
			return err
		}
		out, err := os.OpenFile(at, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, r)
		if err = errors.Join(err, out.Close()); err != nil {
			return err
		}
	}
}

// ofLayer makes an image of one uncompressed layer.
func ofLayer(b []byte) (v1.Image, error) {
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil })
	if err != nil {
		return nil, err
	}
	im, err := mutate.AppendLayers(empty.Image, l)
	if err != nil {
		return nil, err
	}
	cfg, err := im.ConfigFile()
	if err != nil {
		return nil, err
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", arch
	return mutate.ConfigFile(im, cfg)
}
