package images

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"os"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/berthdev/berth/internal/archive"
)

// unpack puts an image's layers over each other.
func (s *Store) unpack(ctx context.Context, ref string, src *source, dir string) error {
	began := time.Now()
	lim := s.cfg.Limits
	err := archive.Place(dir, func(top *os.Root) error {
		if err := top.Mkdir("root", 0o755); err != nil {
			return err
		}
		root, err := top.OpenRoot("root")
		if err != nil {
			return err
		}
		defer root.Close()
		if err := root.Chmod(".", 0o755); err != nil {
			return err
		}
		for i, l := range src.layers {
			s.log.Info("unpacking an image", "image", ref, "layer", i+1, "of", len(src.layers), "bytes", l.size)
			used, err := unpackLayer(ctx, root, l, src.config.RootFS.DiffIDs[i], lim)
			if err != nil {
				return err
			}
			// Never zero, which would be the default.
			lim.Members, lim.Bytes = max(lim.Members-used.Members, 1), max(lim.Bytes-used.Bytes, 1)
		}
		f, err := root.Open(".")
		if err != nil {
			return err
		}
		defer f.Close()
		return flush(f)
	})
	if err == nil {
		s.log.Info("an image is unpacked", "image", ref, "digest", src.digest, "files", s.cfg.Limits.Members-lim.Members,
			"bytes", s.cfg.Limits.Bytes-lim.Bytes, "took", time.Since(began).Round(time.Millisecond))
	}
	return err
}

// unpackLayer puts one layer over what is there, and checks it at both ends:
// as it is stored and as it is unpacked.
func unpackLayer(ctx context.Context, root *os.Root, l layer, diffID v1.Hash, lim archive.Limits) (used archive.Limits, err error) {
	stored, err := l.open(ctx)
	if err != nil {
		return used, err
	}
	defer stored.Close()
	whole := check(until(ctx, stored), l.digest, l.size)
	raw, err := decompress(whole)
	if err != nil {
		return used, err
	}
	defer raw.Close()
	if diffID.Algorithm == "" {
		return used, &Error{Problem: "its configuration does not say what a layer holds", Cure: damaged}
	}
	if used, err = archive.Unlayer(root, check(raw, diffID, -1), lim); err != nil {
		return used, err
	}
	// What is behind the compressed stream is read too, for its digest.
	if n, err := io.Copy(io.Discard, whole); n > 0 || err != nil {
		if err == nil {
			err = &Error{Problem: "a layer has something behind its end", Cure: damaged}
		}
		return used, err
	}
	return used, nil
}

// Bounds on decompression: past the first free bytes a stream must not grow
// beyond ratio times what it is stored as.
const (
	freeBytes = 1 << 30
	maxRatio  = 1100 // a little more than gzip can
	maxWindow = 128 << 20
)

// decompress reads gzip, zstd or what is neither, told by its first bytes.
func decompress(r io.Reader) (io.ReadCloser, error) {
	stored := &counted{r: r}
	b := bufio.NewReaderSize(stored, 64<<10)
	magic, err := b.Peek(4)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(b)
		if err != nil {
			return nil, &Error{Problem: "a part of it is no gzip", Cure: damaged, Err: err}
		}
		return &inflated{z, stored, 0, z.Close}, nil
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, &Error{Problem: "a part of it is no zstd", Cure: damaged, Err: err}
		}
		return &inflated{z, stored, 0, func() error { z.Close(); return nil }}, nil
	}
	return io.NopCloser(b), nil
}

type counted struct {
	r io.Reader
	n int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// inflated is a decompressed stream that does not grow without measure.
type inflated struct {
	io.Reader
	stored *counted
	n      int64
	done   func() error
}

func (i *inflated) Read(p []byte) (int, error) {
	n, err := i.Reader.Read(p)
	if i.n += int64(n); i.n > freeBytes && i.n/maxRatio > i.stored.n {
		return 0, &Error{Problem: "a part of it is compressed beyond measure", Cure: "use another image: this one is hostile"}
	}
	if err != nil && err != io.EOF {
		if _, ours := err.(*Error); !ours {
			err = &Error{Problem: "a part of it cannot be decompressed", Cure: damaged, Err: err}
		}
	}
	return n, err
}

func (i *inflated) Close() error { return i.done() }

// until is a stream that ends with its context.
func until(ctx context.Context, r io.Reader) io.Reader { return &ending{ctx, r} }

type ending struct {
	ctx context.Context
	r   io.Reader
}

func (e *ending) Read(p []byte) (int, error) {
	if err := e.ctx.Err(); err != nil {
		return 0, err
	}
	return e.r.Read(p)
}
