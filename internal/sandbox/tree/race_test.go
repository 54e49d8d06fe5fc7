package tree

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/berthdev/berth/toolset"
)

// attempts are made at least, and as many swaps.
const attempts = 5000

// swapped runs do while somebody inside puts links that lead outside, and
// FIFOs, in the place of a file and of a directory, over and over.
func swapped(t *testing.T, w world, do func(i int)) {
	t.Helper()
	outside := filepath.Join(filepath.Dir(w.root), "outside")
	secrets := []string{"f", "file", "sub/f"}
	must(t, os.MkdirAll(filepath.Join(outside, "sub"), 0o755))
	for _, name := range secrets {
		must(t, os.WriteFile(filepath.Join(outside, name), []byte("top secret"), 0o644))
	}
	w.put(t, "workspace/dir/f", "inside")
	w.put(t, "workspace/dir/sub/f", "inside")
	w.put(t, "workspace/file", "inside")

	at := func(name string) string { return w.host("workspace/" + name) }
	targets := []string{"../../outside", outside, "/proc/self/root" + outside, "../../../../../../../../../../.." + outside}
	for i, target := range targets {
		must(t, os.Symlink(target, at(fmt.Sprint("dir", i))))
		must(t, os.Symlink(target+"/file", at(fmt.Sprint("file", i))))
	}
	stop := make(chan struct{})
	var turns atomic.Int64
	var swapper sync.WaitGroup
	swapper.Go(func() {
		for ; ; turns.Add(1) {
			select {
			case <-stop:
				return
			default:
			}
			i := turns.Load() / 2 % int64(len(targets)) // there and back
			exchange(at("dir"), at(fmt.Sprint("dir", i)))
			exchange(at("file"), at(fmt.Sprint("file", i)))
		}
	})
	for i := 0; i < attempts || turns.Load() < attempts; i++ {
		do(i)
	}
	close(stop)
	swapper.Wait()

	var found []string
	must(t, filepath.WalkDir(outside, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(outside, p)
		if b, readErr := os.ReadFile(p); readErr != nil || string(b) != "top secret" {
			t.Errorf("outside/%s is %q, %v", name, b, readErr)
		}
		found = append(found, name)
		return err
	}))
	if !slices.Equal(found, secrets) {
		t.Errorf("outside holds %v, not %v", found, secrets)
	}
}

func TestNoReadGetsOutInARace(t *testing.T) {
	onBoth(t, Config{}, func(t *testing.T, w world) {
		good := 0
		swapped(t, w, func(i int) {
			name := []string{"dir/f", "file", "dir/sub/f"}[i%3]
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
			name := []string{"dir/f", "file", "dir/sub/f", "dir/made/here"}[i%4]
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
