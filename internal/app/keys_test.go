package app

import (
	"database/sql"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berthdev/berth/internal/config"
	"github.com/berthdev/berth/internal/store/open"
)

// Whoever makes a key beside a server, by a newer program, does not change the
// schema under it.
func TestKeysLeaveARunningServersSchema(t *testing.T) {
	c := config.Store{DataDir: t.TempDir()}
	use := func() error {
		_, done, err := OpenKeys(t.Context(), c)
		if err == nil {
			done()
		}
		return err
	}
	if err := use(); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", filepath.Join(c.DataDir, "berth.db"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec("DROP INDEX events_queued; CREATE INDEX events_by_emit ON events (session_id, emit); DELETE FROM goose_db_version WHERE version_id > 2"); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	lock, err := lockDir(c.DataDir, "--data-dir")
	if err != nil {
		t.Fatal(err)
	}
	if err := use(); err == nil || !strings.Contains(err.Error(), "run berth migrate") {
		t.Errorf("beside a server with an older schema: %v", err)
	}
	if st, err := open.Status(t.Context(), c.URL()); err != nil || st.Current != 2 {
		t.Errorf("the schema is %+v, %v", st, err)
	}
	lock.Release()
	if err := use(); err != nil {
		t.Errorf("without a server: %v", err)
	}
}
