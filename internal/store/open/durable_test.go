package open_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/store/open"
)

// childURL makes the test binary the process that is killed.
const childURL = "BERTH_STORETEST_CHILD"

// TestKilled: whatever was acknowledged before kill -9 is there afterwards,
// and nothing is there in part.
func TestKilled(t *testing.T) {
	if url := os.Getenv(childURL); url != "" {
		writeForEver(url)
	}
	engines(t, func(t *testing.T, url string, _ func(string)) {
		acknowledged := map[int]int{} // writer: last number
		for round := range 3 {
			child := exec.Command(os.Args[0], "-test.run=^TestKilled$")
			child.Env = append(os.Environ(), childURL+"="+url)
			child.Stderr = os.Stderr
			out, err := child.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := child.Start(); err != nil {
				t.Fatal(err)
			}
			lines, killed := bufio.NewScanner(out), false
			for n := 0; lines.Scan(); n++ {
				writer, number, ok := strings.Cut(lines.Text(), " ")
				w, err1 := strconv.Atoi(writer)
				i, err2 := strconv.Atoi(number)
				if !ok || err1 != nil || err2 != nil {
					break // cut off by the kill
				}
				acknowledged[w] = max(acknowledged[w], i)
				if n >= 200+50*round && !killed {
					killed = true
					child.Process.Kill()
				}
			}
			child.Wait()
			if !killed {
				t.Fatal("the child ended by itself")
			}
			st, err := open.Open(t.Context(), url, store.Options{})
			if err != nil {
				t.Fatal(err)
			}
			for w, n := range acknowledged {
				err := st.View(t.Context(), func(r store.Reader) error {
					a, err := r.Setting(fmt.Sprint("a", w))
					if err != nil {
						return err
					}
					b, err := r.Setting(fmt.Sprint("b", w))
					if a != b {
						t.Errorf("writer %d left %q and %q", w, a, b)
					}
					if got, _ := strconv.Atoi(a); got < n {
						t.Errorf("writer %d: %d was acknowledged, %d is there", w, n, got)
					}
					return err
				})
				if err != nil {
					t.Fatal(err)
				}
			}
			if err := st.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if len(acknowledged) < 2 {
			t.Errorf("only %d writers were acknowledged", len(acknowledged))
		}
	})
}

// writeForEver counts on in two settings per writer and says each number once
// it is acknowledged.
func writeForEver(url string) {
	st, err := open.Open(context.Background(), url, store.Options{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for {
				var n int
				err := st.Update(context.Background(), func(tx store.Tx) error {
					text, err := tx.Setting(fmt.Sprint("a", w))
					if err != nil {
						return err
					}
					n, _ = strconv.Atoi(text)
					n++
					if err := tx.SetSetting(fmt.Sprint("a", w), strconv.Itoa(n)); err != nil {
						return err
					}
					return tx.SetSetting(fmt.Sprint("b", w), strconv.Itoa(n))
				})
				if err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				fmt.Printf("%d %d\n", w, n)
			}
		})
	}
	wg.Wait()
}
