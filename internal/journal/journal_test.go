package journal

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/worker"
)

const key = "sk-berth-env01-abcdefgh-secretsecretsecret"

func open(t testing.TB, path, key string) *File {
	t.Helper()
	f, err := Open(path, key)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func path(t testing.TB) string { return filepath.Join(t.TempDir(), "journal.db") }

func TestItRemembersHowFarACallCame(t *testing.T) {
	where, ctx := path(t), t.Context()
	f := open(t, where, key)
	call := worker.CallKey{Session: "s", Call: "c"}
	step := func(want worker.CallState, result string) {
		t.Helper()
		got, err := f.Started(ctx, call, "box")
		if err != nil || got.State != want || string(got.Result) != result || want == worker.CallStarted && got.Birth != "box" || time.Since(got.At).Abs() > time.Minute {
			t.Fatalf("Started: %+v %v, want %s %q", got, err, want, result)
		}
	}
	again := func() {
		t.Helper()
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		f = open(t, where, key)
	}
	step(worker.CallNew, "")
	again()
	step(worker.CallStarted, "")
	if err := f.Finished(ctx, call, []byte("r")); err != nil {
		t.Fatal(err)
	}
	again()
	step(worker.CallFinished, "r")
	if err := f.Posted(ctx, call); err != nil {
		t.Fatal(err)
	}
	again()
	step(worker.CallPosted, "")
	if err := f.Finished(ctx, call, []byte("late")); err != nil {
		t.Fatal(err)
	}
	step(worker.CallPosted, "")
	if got, _ := f.Started(ctx, worker.CallKey{Session: "other", Call: "c"}, ""); got.State != worker.CallNew {
		t.Errorf("another session's call is %s", got.State)
	}
}

func held(work string) worker.HeldItem {
	secret := "the item's secret"
	return worker.HeldItem{
		Item: worker.Item{
			Work:  api.Work{ID: work, Type: "work", EnvironmentID: "env_1", State: api.WorkActive, Data: api.WorkData{Type: "session", ID: "sesn_" + work}, Secret: &secret},
			Acked: true, LastHeartbeat: "2026-11-26T10:00:00.000001Z",
		},
		BeatAt: time.Now().Truncate(time.Microsecond), TTL: time.Minute,
	}
}

func TestItemsComeBackWithTheirSecrets(t *testing.T) {
	where, ctx := path(t), t.Context()
	f := open(t, where, key)
	one, two := held("work_1"), held("work_2")
	for _, h := range []worker.HeldItem{one, two} {
		if err := f.Hold(ctx, h); err != nil {
			t.Fatal(err)
		}
	}
	one.LastHeartbeat, one.BeatAt = "later", one.BeatAt.Add(time.Second)
	if err := errors.Join(f.Hold(ctx, one), f.Release(ctx, two.Work.ID), f.Close()); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{where, where + "-wal"} {
		b, err := os.ReadFile(name)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		if bytes.Contains(b, []byte(*one.Work.Secret)) {
			t.Errorf("%s holds the secret as it is", name)
		}
	}
	if st, err := os.Stat(where); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	f = open(t, where, key)
	items, err := f.Items(ctx)
	if err != nil || len(items) != 1 {
		t.Fatalf("%d items, %v", len(items), err)
	}
	got := items[0]
	if got.Work.Secret == nil || *got.Work.Secret != *one.Work.Secret || got.LastHeartbeat != "later" || !got.BeatAt.Equal(one.BeatAt) ||
		got.TTL != one.TTL || got.Work.Data != one.Work.Data || got.Work.EnvironmentID != "env_1" || !got.Acked {
		t.Errorf("got %+v", got)
	}
	f.Close()
	f = open(t, where, "another key")
	if items, _ = f.Items(ctx); len(items) != 1 || items[0].Work.Secret != nil {
		t.Errorf("another key opened the secret: %+v", items)
	}
	f.Close()
	f = open(t, where, "")
	if items, _ = f.Items(ctx); len(items) != 1 || items[0].Work.Secret != nil {
		t.Errorf("no key opened the secret: %+v", items)
	}
}

// What has no sync of its own is not lost with a write that fails, goes before
// the next one, and is done for whoever reads.
func TestWhatIsLeftForLater(t *testing.T) {
	f, ctx := open(t, path(t), key), t.Context()
	call := worker.CallKey{Session: "s", Call: "c"}
	one, two := held("work_1"), held("work_2")
	if err := errors.Join(f.Hold(ctx, one), f.Hold(ctx, two), f.Finished(ctx, call, []byte("r"))); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Release(ctx, one.Work.ID), f.Release(ctx, two.Work.ID), f.Posted(ctx, call)); err != nil {
		t.Fatal(err)
	}
	bad := errors.New("bad")
	if err := f.update(ctx, "fail", func() error { return bad }); !errors.Is(err, bad) {
		t.Fatal(err)
	}
	for i := range maxLater { // while writes fail it has a bound
		if err := f.Release(ctx, fmt.Sprint("gone", i)); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(f.later); n > maxLater {
		t.Errorf("%d changes wait", n)
	}
	if err := errors.Join(f.Release(ctx, one.Work.ID), f.Release(ctx, two.Work.ID), f.Posted(ctx, call)); err != nil {
		t.Fatal(err)
	}
	one.LastHeartbeat = "again"
	if err := f.Hold(ctx, one); err != nil {
		t.Fatal(err)
	}
	if items, err := f.Items(ctx); err != nil || len(items) != 1 || items[0].Work.ID != one.Work.ID || items[0].LastHeartbeat != "again" {
		t.Errorf("items: %+v, %v", items, err)
	}
	if known, err := f.Started(ctx, call, ""); err != nil || known.State != worker.CallPosted || known.Result != nil {
		t.Errorf("the call: %+v, %v", known, err)
	}
}

func TestAnotherSchemaIsRefused(t *testing.T) {
	where := path(t)
	f := open(t, where, key)
	if _, err := f.db.Exec("PRAGMA user_version = 99"); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if _, err := Open(where, key); err == nil || !strings.Contains(err.Error(), "newer") {
		t.Errorf("opened: %v", err)
	}
}

func TestAnEarlierProgramsIndexGoes(t *testing.T) {
	where, call := path(t), worker.CallKey{Session: "s", Call: "c"}
	f := open(t, where, key)
	if err := f.Finished(t.Context(), call, []byte("kept")); err != nil {
		t.Fatal(err)
	}
	if _, err := f.db.Exec("CREATE INDEX calls_age ON calls (at)"); err != nil {
		t.Fatal(err)
	}
	f.Close()
	f = open(t, where, key)
	if got, err := f.Started(t.Context(), call, ""); err != nil || string(got.Result) != "kept" {
		t.Errorf("what the file held: %+v, %v", got, err)
	}
	var left int
	if err := f.db.QueryRow("SELECT count(*) FROM sqlite_schema WHERE name = 'calls_age'").Scan(&left); err != nil || left != 0 {
		t.Errorf("%d indexes left, %v", left, err)
	}
}

// A write whose failure is its own does not take the others of its group with
// it, and nothing is taken after Close.
func TestAFailureIsItsOwn(t *testing.T) {
	f, ctx := open(t, path(t), key), t.Context()
	bad := errors.New("bad")
	var all sync.WaitGroup
	for i := range 3 * maxGroup {
		all.Go(func() {
			if i%10 == 0 {
				if err := f.update(ctx, "fail", func() error { return bad }); !errors.Is(err, bad) {
					t.Errorf("a bad write: %v", err)
				}
				return
			}
			if got, err := f.Started(ctx, worker.CallKey{Session: "s", Call: fmt.Sprint(i)}, ""); err != nil || got.State != worker.CallNew {
				t.Errorf("%d: %+v %v", i, got, err)
			}
		})
	}
	all.Wait()
	var n int
	if err := f.db.QueryRow("SELECT count(*) FROM calls").Scan(&n); err != nil || n != 3*maxGroup-(3*maxGroup+9)/10 {
		t.Errorf("%d calls, %v", n, err)
	}
	f.Close()
	if _, err := f.Started(ctx, worker.CallKey{}, ""); err == nil {
		t.Error("taken after Close")
	}
}

// While it is open nobody else has the file: that is why it need not ask for its
// locks.
func TestOneHasTheJournal(t *testing.T) {
	where := path(t)
	for range 2 { // a new file, and one that is there
		f := open(t, where, key)
		other, err := sql.Open("sqlite", where)
		if err != nil {
			t.Fatal(err)
		}
		var n int
		if err := other.QueryRow("SELECT count(*) FROM calls").Scan(&n); err == nil {
			t.Error("another one read it")
		}
		if err := errors.Join(other.Close(), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

// What has been taken outlives a process that is killed on the spot.
func TestAnswersAreDurable(t *testing.T) {
	if where := os.Getenv("BERTH_TEST_JOURNAL"); where != "" {
		f, err := Open(where, key)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; ; i++ {
			if _, err := f.Started(context.Background(), worker.CallKey{Session: "s", Call: fmt.Sprint(i)}, ""); err != nil {
				t.Fatal(err)
			}
			fmt.Fprintln(os.Stderr, "taken", i)
		}
	}
	where := path(t)
	cmd := exec.Command(os.Args[0], "-test.run=^TestAnswersAreDurable$")
	cmd.Env = append(os.Environ(), "BERTH_TEST_JOURNAL="+where)
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	last := -1
	for range 200 {
		if _, err := fmt.Fscanf(out, "taken %d\n", &last); err != nil {
			t.Fatal(err)
		}
	}
	cmd.Process.Kill()
	cmd.Wait()
	f := open(t, where, key)
	for i := range last + 1 {
		if got, err := f.Started(t.Context(), worker.CallKey{Session: "s", Call: fmt.Sprint(i)}, ""); err != nil || got.State != worker.CallStarted {
			t.Fatalf("call %d: %+v %v", i, got, err)
		}
	}
}

// BenchmarkCall is what the journal adds to a tool call: its start, its result
// and that it was posted, each synced.
func BenchmarkCall(b *testing.B) {
	f, ctx := open(b, path(b), key), b.Context()
	result := bytes.Repeat([]byte("x"), 200)
	for i := 0; b.Loop(); i++ {
		c := worker.CallKey{Session: "s", Call: fmt.Sprint(i)}
		if _, err := f.Started(ctx, c, ""); err != nil {
			b.Fatal(err)
		}
		if err := errors.Join(f.Finished(ctx, c, result), f.Posted(ctx, c)); err != nil {
			b.Fatal(err)
		}
	}
}
