package tree

import (
	"fmt"
	"io/fs"
	"runtime"
	"strings"
	"testing"

	"github.com/berthdev/berth/toolset"
)

// wide is a tree with very many directories far down, and a file in the first.
type wide struct {
	hold
	top  string
	dirs int
}

type wideListing struct {
	listing
	all []dirent
}

func (w wide) list(rel string) (listing, error) {
	switch rel {
	case w.top:
		all := make([]dirent, w.dirs)
		for i := range all {
			all[i] = dirent{fmt.Sprintf("%07d", i), fs.ModeDir}
		}
		return wideListing{all: all}, nil
	case w.top + "/0000000":
		return wideListing{all: []dirent{{"f", 0}}}, nil
	}
	return wideListing{}, nil
}

func (l wideListing) names() []dirent { return l.all }
func (l wideListing) close()          {}

// TestWalkTakesLittleMemory, however many directories a session has made and
// wherever they are.
func TestWalkTakesLittleMemory(t *testing.T) {
	w := wide{top: strings.Repeat(strings.Repeat("d", 250)+"/", 15) + "d", dirs: 20_000}
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before, seen := heap(), false
	walk := walker{tree: &Tree{hold: w}, ctx: t.Context(), fn: func(p string, e toolset.Entry) error {
		if !e.IsDir() {
			seen = true
			if took := heap() - before; took > 5<<20 {
				t.Errorf("it takes %d bytes, %d for each directory", took, took/int64(w.dirs))
			}
		}
		return nil
	}}
	l, _ := w.list(w.top)
	if err := walk.visit(w.top, l); err != nil || !seen {
		t.Fatalf("seen: %v, %v", seen, err)
	}
}
