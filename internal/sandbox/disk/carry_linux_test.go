package disk

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// sampled is a context that looks at the heap the so many-th time it is asked.
type sampled struct {
	context.Context
	left int
	took int64
}

func (s *sampled) Err() error {
	if s.left--; s.left == 0 {
		s.took = heap()
	}
	return nil
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestCarryTakesLittleMemory, however many directories and links a session has
// made and wherever they are.
func TestCarryTakesLittleMemory(t *testing.T) {
	const many = 1000
	from, to := t.TempDir(), t.TempDir()
	deep := strings.Repeat(strings.Repeat("d", 250)+"/", 14)
	root, err := os.OpenRoot(from)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := root.MkdirAll(deep, 0o755); err != nil {
		t.Fatal(err)
	}
	in, err := root.OpenRoot(deep)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	for i := range many {
		err := in.Mkdir(fmt.Sprint("dir", i), 0o755)
		if err == nil {
			err = in.WriteFile(fmt.Sprint("file", i), nil, 0o644)
		}
		if err == nil {
			err = in.Link(fmt.Sprint("file", i), fmt.Sprint("link", i))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx := &sampled{Context: t.Context(), left: 14 + 3*many}
	before := heap()
	if _, err := carry(ctx, from, to, true); err != nil {
		t.Fatal(err)
	}
	if took := ctx.took - before; ctx.took == 0 || took > 2<<20 {
		t.Errorf("it takes %d bytes, %d for each directory", took, took/many)
	}
	if info, err := os.Stat(filepath.Join(to, deep, "link7")); err != nil || !info.Mode().IsRegular() {
		t.Error(err)
	}
}
