package main

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"

	"github.com/berthdev/berth/internal/images"
	"github.com/berthdev/berth/internal/images/imagetest"
)

// maker stands for the test that an image is made in.
type maker struct{ testing.TB }

func (maker) Helper()           {}
func (maker) Fatal(args ...any) { panic(fmt.Sprint(args...)) }

// imageStart unpacks an image from an OCI layout, once, and then measures from
// Start to the first command's output on it, one sandbox at a time.
func imageStart(ctx context.Context) ([]figure, error) {
	b, err := newBoxes()
	if err != nil {
		return nil, err
	}
	defer b.close()
	from := filepath.Join(b.dir, "layout")
	l, err := layout.Write(from, empty.Index)
	if err == nil {
		err = l.AppendImage(imagetest.Bash(maker{}))
	}
	if err != nil {
		return nil, err
	}
	store, err := images.Open(images.Config{Dir: filepath.Join(b.dir, "images")})
	if err != nil {
		return nil, err
	}
	defer store.Close()
	began := time.Now()
	image, err := store.Get(ctx, from)
	if err != nil {
		return nil, err
	}
	unpacked := time.Since(began)
	began = time.Now()
	if image, err = store.Get(ctx, from); err != nil {
		return nil, err
	}
	found := time.Since(began)
	took, err := b.starts(ctx, 200, &image)
	if err != nil {
		return nil, err
	}
	return []figure{
		{"image: start to the first command's output, p50", ms(quantile(took, .5)), "reported", true},
		{"image: start to the first command's output, p99", ms(quantile(took, .99)), "reported", true},
		{"image: unpacked once, from an OCI layout of bash and 16 programs", ms(unpacked) + ", then found in " + ms(found), "reported", true},
	}, nil
}
