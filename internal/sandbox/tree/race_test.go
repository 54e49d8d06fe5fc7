package tree

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/berthdev/berth/toolset"
)

// attempts are made at least, and a tenth of them swaps.
const attempts = 5000

// swapped runs do while somebody inside puts links that lead outside, and
// FIFOs, in the place of a file and of a directory, over and over.
func swapped(t *testing.T, w world, do func(i int)) {
	t.Helper()
	outside := filepath.Join(filepath.Dir(w.root), "outside")
	must(t, os.Mkdir(outside, 0o755))
	must(t, os.WriteFile(filepath.Join(outside, "f"), []byte("top secret"), 0o644))
	must(t, os.WriteFile(filepath.Join(outside, "file"), []byte("top secret"), 0o644))
	w.put(t, "workspace/dir/f", "inside")
	w.put(t, "workspace/file", "inside")

	stop := make(chan struct{})
	var turns atomic.Int64
	var swapper sync.WaitGroup
	swapper.Go(func() {
		at := func(name string) string { return w.host("workspace/" + name) }
		targets := []string{"../../outside", outside, "/proc/self/root" + outside, "../../../../../../../../../../.." + outside}
		for ; ; turns.Add(1) {
			select {
			case <-stop:
				return
			default:
			}
			target := targets[int(turns.Load())%len(targets)]
			// The directory becomes a link and comes back.
			os.Symlink(target, at("link"))
			os.Rename(at("dir"), at("aside"))
			os.Rename(at("link"), at("dir"))
			os.Remove(at("dir"))
			os.RemoveAll(at("dir")) // a writer may have made one of its own
			os.Rename(at("aside"), at("dir"))
			// So does the file.
			os.Symlink(target+"/file", at("link"))
			os.Rename(at("link"), at("file"))
			os.WriteFile(at("new"), []byte("inside"), 0o644)
			os.Rename(at("new"), at("file"))
		}
	})
	for i := 0; i < attempts || turns.Load() < attempts/10; i++ {
		do(i)
	}
	close(stop)
	swapper.Wait()

	entries, err := os.ReadDir(outside)
	must(t, err)
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(outside, e.Name()))
		if string(b) != "top secret" || err != nil {
			t.Errorf("outside/%s is %q, %v", e.Name(), b, err)
		}
	}
	if len(entries) != 2 {
		t.Errorf("outside holds %d files, not 2: %v", len(entries), entries)
	}
}

func TestNoReadGetsOutInARace(t *testing.T) {
	onBoth(t, Config{}, func(t *testing.T, w world) {
		good := 0
		swapped(t, w, func(i int) {
			name := []string{"dir/f", "file"}[i%2]
			got, err := w.read(name)
			switch {
			case err != nil:
			case got == "inside":
				good++
			default:
				t.Errorf("read %s got %q", name, got)
			}
		})
		if good == 0 {
			t.Error("no read came through: the race shows nothing")
		}
		t.Logf("%d reads came through", good)
	})
}

func TestNoWriteGetsOutInARace(t *testing.T) {
	onBoth(t, Config{}, func(t *testing.T, w world) {
		good := 0
		swapped(t, w, func(i int) {
			name := []string{"dir/f", "file", "dir/made/here"}[i%3]
			if w.WriteFile(name, []byte("inside")) == nil {
				good++
			}
		})
		if good == 0 {
			t.Error("no write came through: the race shows nothing")
		}
		t.Logf("%d writes came through", good)
	})
}

func TestNoWalkGetsOutInARace(t *testing.T) {
	onBoth(t, Config{}, func(t *testing.T, w world) {
		var err error
		swapped(t, w, func(i int) {
			if i%5 != 0 {
				return
			}
			w.Walk(t.Context(), ".", func(p string, e toolset.Entry) error {
				f, openErr := e.Open()
				if openErr != nil {
					return nil
				}
				defer f.Close()
				b := make([]byte, 100)
				if n, _ := f.Read(b); n > 0 && string(b[:n]) != "inside" {
					err = fmt.Errorf("the walk read %q at %s", b[:n], p)
				}
				return nil
			})
		})
		if err != nil {
			t.Error(err)
		}
	})
}
