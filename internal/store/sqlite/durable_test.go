package sqlite

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/store/record"
)

func open(t *testing.T) *Store {
	t.Helper()
	s, err := Open(t.Context(), filepath.Join(t.TempDir(), "berth.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// Acknowledged means on disk: what kill -9 cannot show, a power cut would.
func TestConnectionsAreDurable(t *testing.T) {
	s := open(t)
	for _, c := range s.all {
		for pragma, want := range map[string]string{"synchronous": "2", "journal_mode": "wal", "foreign_keys": "1", "busy_timeout": "5000"} {
			got, err := record.One(c.ask, pragma, func(r record.Row) (string, error) {
				return fmt.Sprint(r.(*row).value()), nil
			}, "PRAGMA "+pragma)
			if err != nil || got != want {
				t.Errorf("%s is %s, %v; want %s", pragma, got, err, want)
			}
		}
	}
}

// Readers that always overlap do not let the log grow without end, and one
// that waits for a commit does not stop it.
func TestLogIsBounded(t *testing.T) {
	s := open(t)
	s.walLimit, s.patience = 1<<20, 20*time.Second // others may load the machine
	n := 0
	write := func() {
		n++
		err := s.Update(t.Context(), func(tx store.Tx) error { return tx.SetSetting("a", strings.Repeat(fmt.Sprint(n%10), 100_000)) })
		if err != nil {
			t.Error(err)
		}
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range cap(s.readers) {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				s.View(t.Context(), func(r store.Reader) error {
					for range 20 {
						if _, err := r.Setting("a"); err != nil {
							return err
						}
					}
					return nil
				})
			}
		})
	}
	for range 100 {
		write()
		info, err := os.Stat(s.path + "-wal")
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() > 2<<20 {
			t.Fatalf("the log has %d bytes", info.Size())
		}
	}
	close(stop)
	wg.Wait()

	s.patience = patience // which this reader is to outwait
	s.View(t.Context(), func(r store.Reader) error {
		if _, err := r.Setting("a"); err != nil {
			t.Error(err)
		}
		for range 20 {
			write()
		}
		return nil
	})
}
