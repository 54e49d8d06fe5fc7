package app

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/config"
	"github.com/berthdev/berth/internal/sandbox/gvisor"
	"github.com/berthdev/berth/internal/sandbox/namespaces"
	"github.com/berthdev/berth/internal/sandbox/process"
	"github.com/berthdev/berth/worker/workertest"
)

func bash(command string) workertest.Call {
	return workertest.Call{Name: "bash", Input: fmt.Sprintf(`{"command":%q}`, command)}
}

// memoryWorker polls a plane until the test or stop ends it.
func memoryWorker(t *testing.T, plane *workertest.Plane, way config.Sandbox, state string, change ...func(*WorkerConfig)) (stop func()) {
	t.Helper()
	c := WorkerConfig{
		Remote:  config.Remote{BaseURL: plane.URL, EnvironmentID: workertest.EnvironmentID, EnvironmentKey: config.Secret(workertest.EnvironmentKey)},
		Sandbox: way, Engine: config.Engine{MaxSessions: 2, MaxIdle: time.Second}, Pace: "eager", StateDir: state, Log: slog.New(slog.DiscardHandler),
	}
	if os.Getenv("BERTH_TEST_LOG") != "" {
		c.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	for _, f := range change {
		f(&c)
	}
	taking, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- WorkerPoll(taking, t.Context(), c) }()
	over := false
	stop = func() {
		cancel()
		if !over {
			over = true
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(stop)
	return stop
}

// TestMemoryInASandbox: stores are where the session was told, what may be
// written comes into the store, and what may only be read cannot be changed, by
// bash or by a file tool.
func TestMemoryInASandbox(t *testing.T) {
	c := config.Sandbox{Runsc: builtRunsc(t)}
	for _, d := range drivers(c, "", t.TempDir(), slog.New(slog.DiscardHandler)) {
		if !slices.Contains([]string{namespaces.Name, gvisor.Name, process.Name}, d.Name()) {
			continue
		}
		t.Run(d.Name(), func(t *testing.T) {
			if p := d.Probe(t.Context()); !p.OK {
				t.Skipf("%s cannot run here: %s", d.Name(), p.Reason)
			}
			c.Sandbox = d.Name()
			memoryIn(t, c)
		})
	}
}

func memoryIn(t *testing.T, way config.Sandbox) {
	plane := workertest.New(t)
	rules, notes, far := plane.MemoryStore("rules"), plane.MemoryStore("notes"), plane.MemoryStore("far")
	rules.Put("/one.md", "be kind\n")
	notes.Put("/a.md", "old\n")
	notes.Put("/gone.md", "to be deleted\n")
	notes.Put("/deep/er/b.md", "b\n")
	elsewhere := far.Resource(api.MemoryReadWrite)
	elsewhere.MountPath = "/data/far"
	plane.Resources(rules.Resource(api.MemoryReadOnly), notes.Resource(api.MemoryReadWrite), elsewhere)
	s := plane.Session(workertest.Turn{Calls: []workertest.Call{
		bash("cat /mnt/memory/rules/one.md /mnt/memory/notes/a.md /mnt/memory/notes/deep/er/b.md; ls -A /mnt/memory /data/far"),
		bash("cd /mnt/memory/rules; echo x >> one.md; rm -f one.md; touch new; mkdir d; rmdir /mnt/memory/rules || mv /mnt/memory/rules /mnt/memory/r; cat one.md"),
		{Name: "write", Input: `{"file_path":"/mnt/memory/rules/one.md","content":"mine"}`},
		{Name: "write", Input: `{"file_path":"/mnt/memory/rules/new.md","content":"mine"}`},
		{Name: "edit", Input: `{"file_path":"/mnt/memory/rules/one.md","old_string":"kind","new_string":"mean"}`},
		{Name: "read", Input: `{"file_path":"/mnt/memory/rules/one.md"}`},
		bash("cd /mnt/memory/notes && echo new > a.md && rm gone.md && echo by bash > c.md && echo far > /data/far/f.md"),
		{Name: "write", Input: `{"file_path":"/mnt/memory/notes/deep/d.md","content":"by tool\n"}`},
		{Name: "read", Input: `{"file_path":"/data/far/f.md"}`},
		bash("env; cat /proc/self/environ /mnt/memory/*/.anthropic*"),
	}})
	state := t.TempDir()
	memoryWorker(t, plane, way, state)
	plane.Wait(t, "the session's end", 5*time.Minute, s.Done)
	plane.Wait(t, "the item's end", time.Minute, func() bool { return len(plane.Requests(workertest.Stop)) > 0 })
	got := s.Answers()
	if want := "be kind\nold\nb\n/data/far:\n.anthropic-memory-store\n\n/mnt/memory:\nnotes\nrules"; strings.TrimSpace(got[0].Text) != want {
		t.Errorf("bash: %q", got[0].Text)
	}
	if n := strings.Count(got[1].Text, "ead-only file system"); n < 4 || !strings.HasSuffix(strings.TrimSpace(got[1].Text), "be kind") {
		t.Errorf("%d changes are refused: %q", n, got[1].Text)
	}
	for i, tool := range map[int]string{2: "write", 3: "write anew", 4: "edit"} {
		if !got[i].IsError || !strings.Contains(got[i].Text, "read-only") {
			t.Errorf("%s: %q", tool, got[i].Text)
		}
	}
	if !strings.Contains(got[5].Text, "be kind") || !strings.Contains(got[8].Text, "far") {
		t.Errorf("read: %q, %q", got[5].Text, got[8].Text)
	}
	if strings.Contains(got[9].Text, "sk-test") {
		t.Errorf("a credential is inside: %q", got[9].Text)
	}
	for store, want := range map[*workertest.MemoryStore]map[string]string{
		rules: {"/one.md": "be kind\n"},
		notes: {"/a.md": "new\n", "/c.md": "by bash\n", "/deep/er/b.md": "b\n", "/deep/d.md": "by tool\n"},
		far:   {"/f.md": "far\n"},
	} {
		if all := store.All(); !maps.Equal(all, want) {
			t.Errorf("%s has %q", store.Name, all)
		}
	}
	for _, r := range plane.Requests("") {
		if r.Store != "" && (r.Credential == workertest.EnvironmentKey || r.Status != 200) {
			t.Errorf("%+v", r)
		}
	}
	if kept, err := filepath.Glob(filepath.Join(state, "sandboxes/*/tree/mnt/memory/notes/a.md")); err != nil || len(kept) != 1 {
		t.Errorf("the folder is not the session's own: %v, %v", kept, err)
	}
}
