package toolset_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"strings"
	"testing"

	"github.com/berthdev/berth/toolset"
)

// wide is files that a walk finds very many directories in, far down.
type wide struct {
	toolset.Files
	dirs int
	took int64 // bytes that were held when all had been seen
}

type wideEntry struct {
	fs.DirEntry
	name string
}

func (e wideEntry) Name() string                { return e.name }
func (e wideEntry) IsDir() bool                 { return true }
func (e wideEntry) Type() fs.FileMode           { return fs.ModeDir }
func (e wideEntry) Open() (toolset.File, error) { return nil, toolset.ErrIsDir }

func (w *wide) Walk(_ context.Context, _ string, fn func(string, toolset.Entry) error) error {
	before := heap()
	top := strings.Repeat("/"+strings.Repeat("d", 250), 15)
	for i := range w.dirs {
		name := fmt.Sprintf("%07d", i)
		if err := fn(top+"/"+name, wideEntry{name: name}); err != nil && !errors.Is(err, fs.SkipDir) {
			return err
		}
	}
	w.took = heap() - before
	runtime.KeepAlive(fn)
	return nil
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestGlobTakesLittleMemory, however many directories a session has made and
// wherever they are.
func TestGlobTakesLittleMemory(t *testing.T) {
	w := &wide{dirs: 20_000}
	set := toolset.New(host{&shell{}, w}, toolset.Options{})
	r, _ := set.Run(t.Context(), "a", "glob", json.RawMessage(`{"pattern":"**/*.go"}`))
	if w.took == 0 || w.took > 10<<20 {
		t.Errorf("it takes %d bytes, %d for each directory: %+v", w.took, w.took/int64(w.dirs), r)
	}
}
