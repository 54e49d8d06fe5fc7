package toolset_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berthdev/berth/toolset"
)

// forest fills the workspace with files of about 4 KiB of words, 50 to a
// directory. One in a hundred holds a needle.
func forest(b *testing.B, w *world, files, size int) {
	words := strings.Fields("return func error string the of and value index buffer config session worker claim lease result module import struct interface channel context deadline")
	r := rand.New(rand.NewPCG(1, 2))
	var text strings.Builder
	for i := range files {
		dir := filepath.Join(w.root, "workspace", fmt.Sprintf("p%03d", i/500), fmt.Sprintf("q%02d", i/50%10))
		if i%50 == 0 {
			must(b, os.MkdirAll(dir, 0o755))
		}
		text.Reset()
		for text.Len() < size {
			text.WriteString(words[r.IntN(len(words))])
			text.WriteByte(" \n"[r.IntN(10)/9])
		}
		if i%100 == 0 && size > 0 {
			text.WriteString("\nfindThisNeedle42(x)\n")
		}
		must(b, os.WriteFile(filepath.Join(dir, fmt.Sprintf("f%02d.%s", i%50, []string{"go", "txt"}[i%2])), []byte(text.String()), 0o644))
	}
}

// against runs ripgrep on one core over the same files, to compare.
func against(b *testing.B, w *world, args ...string) {
	b.Run("ripgrep", func(b *testing.B) {
		if _, err := exec.LookPath("rg"); err != nil {
			b.Skip("no rg here to compare with")
		}
		for b.Loop() {
			cmd := exec.Command("rg", append(args, ".")...)
			cmd.Dir = filepath.Join(w.root, "workspace")
			if err := cmd.Run(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// The bar: within 2 times ripgrep on one core.
func BenchmarkGrep20000Files(b *testing.B) {
	w := newWorld(b, toolset.Options{})
	forest(b, w, 20_000, 4096)
	for _, p := range []struct{ name, pattern string }{
		{"literal", `findThisNeedle42`},
		{"expression", `find\w+Needle\d+\(`},
		{"anycase", `(?i)FINDTHISneedle\d`},
		{"alternatives", `findThisNeedle|neverThere|norThis`},
		{"class", `[A-Z][a-z]+[A-Z][a-z]+\d{2}`},
	} {
		b.Run(p.name+"/berth", func(b *testing.B) {
			for b.Loop() {
				if got := strings.Count(w.call("grep", args{"pattern": p.pattern}), "\n"); got != 199 {
					b.Fatalf("%d hits", got+1)
				}
			}
		})
		b.Run(p.name, func(b *testing.B) {
			against(b, w, "-n", "--no-heading", "-j1", "--hidden", "--no-ignore", "-e", p.pattern, "--")
		})
	}
}

// The bar: within 2 times ripgrep on one core.
func BenchmarkGlob50000Files(b *testing.B) {
	w := newWorld(b, toolset.Options{})
	forest(b, w, 50_000, 0)
	for _, p := range []string{"**/*.go", "p01*/**/f1?.{go,txt}"} {
		b.Run(strings.ReplaceAll(p, "/", "|"), func(b *testing.B) {
			b.Run("berth", func(b *testing.B) {
				for b.Loop() {
					if got := strings.Count(w.call("glob", args{"pattern": p}), "\n"); got != 200 {
						b.Fatalf("%d paths", got)
					}
				}
			})
			against(b, w, "--files", "-j1", "--hidden", "--no-ignore", "-g", p)
		})
	}
}
