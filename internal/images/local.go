package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/berthdev/berth/internal/archive"
)

// tagName is the annotation that holds a manifest's name in a layout.
const tagName = "org.opencontainers.image.ref.name"

// locate finds the file or directory of a reference, whose last part may be a
// tag.
func locate(ref string) (path, tag string, info fs.FileInfo, err error) {
	path = ref
	info, err = os.Stat(path)
	if i := strings.LastIndexByte(ref, ':'); errors.Is(err, fs.ErrNotExist) && i > strings.LastIndexByte(ref, '/') {
		path, tag = ref[:i], ref[i+1:]
		info, err = os.Stat(path)
	}
	return path, tag, info, err
}

// local looks up an image of this machine's files.
func (s *Store) local(ctx context.Context, ref string) (*source, error) {
	path, tag, info, err := locate(ref)
	if err != nil {
		return nil, &Error{Problem: "its path cannot be read", Cure: "name an OCI layout or an archive that is there", Err: err}
	}
	if info.IsDir() {
		root, err := os.OpenRoot(path)
		if err != nil {
			return nil, err
		}
		src, err := layout(root, tag)
		if err != nil {
			root.Close()
			return nil, err
		}
		src.close = func() { root.Close() }
		return src, nil
	}
	src, err := s.packed(ctx, path, tag)
	if err == nil {
		src.file = info
	}
	return src, err
}

// packed looks up an image in an archive, whose parts it unpacks first.
func (s *Store) packed(ctx context.Context, path, tag string) (_ *source, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := decompress(f)
	if err != nil {
		return nil, err
	}
	defer raw.Close()
	tmp, err := os.MkdirTemp(filepath.Join(s.cfg.Dir, "sha256"), ".parts-")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(tmp))
		}
	}()
	root, err := os.OpenRoot(tmp)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			root.Close()
		}
	}()
	s.log.Info("reading an image's archive", "image", path)
	if err := archive.Untar(root, until(ctx, raw), archive.Limits{Members: 10_000, Bytes: s.cfg.Limits.Bytes}); err != nil {
		return nil, err
	}
	src, err := docker(root, tag)
	if errors.Is(err, fs.ErrNotExist) {
		src, err = layout(root, tag)
	}
	if err != nil {
		return nil, err
	}
	src.close = func() {
		root.Close()
		if err := os.RemoveAll(tmp); err != nil {
			s.log.Warn("an image's parts could not be removed", "dir", tmp, "err", err)
		}
	}
	return src, nil
}

// layout looks up an image in an OCI layout.
func layout(root *os.Root, tag string) (*source, error) {
	b, err := readFile(root, "index.json", maxManifest)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &Error{Problem: "it is neither an OCI layout nor an archive of docker save", Cure: "name one that is"}
	}
	if err != nil {
		return nil, err
	}
	top := true
	for range 4 { // lists within lists
		var index v1.IndexManifest
		if err := json.Unmarshal(b, &index); err != nil {
			return nil, &Error{Problem: "its list of manifests cannot be read", Cure: damaged, Err: err}
		}
		d, err := choose(index.Manifests, tag, top)
		if err != nil {
			return nil, err
		}
		top = false
		if b, err = blob(root, d, maxManifest); err != nil {
			return nil, err
		}
		if d.MediaType.IsIndex() {
			continue
		}
		var m v1.Manifest
		if err := json.Unmarshal(b, &m); err != nil {
			return nil, &Error{Problem: "its manifest cannot be read", Cure: damaged, Err: err}
		}
		config, err := blob(root, m.Config, maxConfig)
		if err != nil {
			return nil, err
		}
		return newSource(config, m.Config.Digest, m.Layers, func(d v1.Descriptor) (func(context.Context) (io.ReadCloser, error), error) {
			name, err := blobName(d.Digest)
			return func(context.Context) (io.ReadCloser, error) { return root.Open(name) }, err
		})
	}
	return nil, &Error{Problem: "its lists of manifests lead on and on", Cure: damaged}
}

// choose takes the manifest of a tag, or the only one for this machine.
func choose(all []v1.Descriptor, tag string, top bool) (v1.Descriptor, error) {
	var found []v1.Descriptor
	for _, d := range all {
		if fits(d.Platform) && (!top || tag == "" || d.Annotations[tagName] == tag) && (d.MediaType.IsIndex() || d.MediaType.IsImage()) {
			found = append(found, d)
		}
	}
	switch {
	case len(found) == 0 && tag != "":
		return v1.Descriptor{}, &Error{Problem: "it has no image " + tag + " for this machine", Cure: "name another tag"}
	case len(found) == 0:
		return v1.Descriptor{}, &Error{Problem: "it has no image for this machine", Cure: "use one for linux and this processor"}
	case len(found) > 1 && top:
		return v1.Descriptor{}, &Error{Problem: fmt.Sprintf("it has %d images", len(found)), Cure: "name one by PATH:TAG"}
	}
	return found[0], nil
}

func blobName(d v1.Hash) (string, error) {
	if d.Algorithm != "sha256" || len(d.Hex) != 64 || strings.Trim(d.Hex, "0123456789abcdef") != "" {
		return "", &Error{Problem: "it has a digest that is none", Cure: damaged}
	}
	return "blobs/sha256/" + d.Hex, nil
}

// blob reads a small part of a layout whole, and checks it.
func blob(root *os.Root, d v1.Descriptor, most int64) ([]byte, error) {
	name, err := blobName(d.Digest)
	if err != nil {
		return nil, err
	}
	f, err := open(root, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(check(f, d.Digest, d.Size), most)
}

// docker looks up an image in what docker save wrote; fs.ErrNotExist when it
// is something else.
func docker(root *os.Root, tag string) (*source, error) {
	b, err := readFile(root, "manifest.json", maxManifest)
	if err != nil {
		return nil, err
	}
	var all []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(b, &all); err != nil {
		return nil, &Error{Problem: "its manifest.json cannot be read", Cure: damaged, Err: err}
	}
	var found int
	n := 0
	for i, m := range all {
		for _, t := range append(m.RepoTags, "") {
			if tag == t || tag != "" && strings.HasSuffix(t, ":"+tag) {
				found, n = i, n+1
				break
			}
		}
	}
	switch {
	case n == 0:
		return nil, &Error{Problem: "it has no image " + tag, Cure: "name another tag"}
	case n > 1:
		return nil, &Error{Problem: fmt.Sprintf("it has %d images", n), Cure: "name one by PATH:TAG"}
	}
	m := all[found]
	config, err := readFile(root, m.Config, maxConfig)
	if err != nil {
		return nil, err
	}
	layers := make([]v1.Descriptor, len(m.Layers))
	for i := range layers {
		layers[i].Size = -1 // nobody says
	}
	at := 0
	return newSource(config, v1.Hash{}, layers, func(v1.Descriptor) (func(context.Context) (io.ReadCloser, error), error) {
		name := m.Layers[at]
		at++
		return func(context.Context) (io.ReadCloser, error) { return open(root, name) }, nil
	})
}

// open opens a regular file.
func open(root *os.Root, name string) (*os.File, error) {
	info, err := root.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &Error{Problem: name + " in it is no file", Cure: damaged}
	}
	return root.Open(name)
}

func readFile(root *os.Root, name string, most int64) ([]byte, error) {
	f, err := open(root, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f, most)
}

func readAll(r io.Reader, most int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, most+1))
	if err == nil && int64(len(b)) > most {
		return nil, &Error{Problem: fmt.Sprintf("a part that describes it is larger than %d MiB", most>>20), Cure: "use another image"}
	}
	return b, err
}
