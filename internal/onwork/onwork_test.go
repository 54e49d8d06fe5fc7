package onwork

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/client"
	"github.com/berthdev/berth/worker"
	"github.com/berthdev/berth/worker/workertest"
)

const patience = time.Minute

// bench is a plane, a script and what runs it for each item.
type bench struct {
	t     *testing.T
	plane *workertest.Plane
	dir   string
	stop  context.CancelFunc
	ended chan error
	log   *workertest.Log
}

// start runs a script, whose working place is $DIR, for the plane's items.
func start(t *testing.T, script string, change func(*Config)) *bench {
	t.Helper()
	b := &bench{t: t, plane: workertest.New(t), dir: t.TempDir(), ended: make(chan error, 1), log: &workertest.Log{}}
	path := filepath.Join(b.dir, "script")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	queue := client.New(b.plane.URL, client.Bearer(workertest.EnvironmentKey), nil)
	p, err := worker.NewPoller(worker.PollerConfig{Client: queue, EnvironmentID: workertest.EnvironmentID})
	if err != nil {
		t.Fatal(err)
	}
	c := Config{
		Script: path, Env: []string{"PATH=" + os.Getenv("PATH"), "DIR=" + b.dir, "ANTHROPIC_SESSION_ID=an old one"}, Output: b.log,
		Lease: LeaseChild, Credential: CredentialToken, Most: 4,
		BaseURL: b.plane.URL, EnvironmentKey: workertest.EnvironmentKey, Client: queue, Next: p.Next, Log: slog.New(slog.NewTextHandler(b.log, nil)),
	}
	if change != nil {
		change(&c)
	}
	taking, stop := context.WithCancel(context.Background())
	b.stop = stop
	go func() { b.ended <- Run(taking, context.Background(), c) }()
	t.Cleanup(func() {
		stop()
		if t.Failed() {
			t.Log(b.log)
		}
	})
	return b
}

func (b *bench) end() error {
	b.t.Helper()
	b.stop()
	select {
	case err := <-b.ended:
		return err
	case <-time.After(patience):
		b.t.Fatal("it does not end")
		return nil
	}
}

func (b *bench) wait(what string, cond func() bool) {
	b.t.Helper()
	b.plane.Wait(b.t, what, patience, cond)
}

func (b *bench) file(name string) string {
	raw, _ := os.ReadFile(filepath.Join(b.dir, name))
	return string(raw)
}

// stops counts the requests to stop items, as they were sent.
func (b *bench) stops() []workertest.Request { return b.plane.Requests(workertest.Stop) }

// tell lets a script that reads $DIR/gate go on.
func (b *bench) tell() {
	b.t.Helper()
	gate, err := os.OpenFile(filepath.Join(b.dir, "gate"), os.O_WRONLY, 0)
	if err != nil {
		b.t.Fatal(err)
	}
	defer gate.Close()
	if _, err := io.WriteString(gate, "go\n"); err != nil {
		b.t.Fatal(err)
	}
}

const waits = "cat > $DIR/item; env > $DIR/env; mkfifo $DIR/gate; echo there > $DIR/there; read x < $DIR/gate\n"

func TestTheScriptGetsItsItem(t *testing.T) {
	for _, c := range []struct{ credential, want string }{{CredentialToken, "sk-test-req01-"}, {CredentialKey, workertest.EnvironmentKey}} {
		t.Run(c.credential, func(t *testing.T) {
			b := start(t, waits+"echo said; exit 3", func(cfg *Config) { cfg.Credential = c.credential })
			s := b.plane.Session(workertest.Calls("bash"))
			b.wait("the script to run", func() bool { return b.file("there") != "" })
			var item api.Work
			if err := json.Unmarshal([]byte(b.file("item")), &item); err != nil {
				t.Fatal(err)
			}
			if item.Data.ID != s.ID || item.Secret == nil || *item.Secret == "" {
				t.Errorf("on its standard input: %+v", item)
			}
			env := map[string]string{}
			for line := range strings.Lines(b.file("env")) {
				k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
				env[k] = v
			}
			if env["ANTHROPIC_WORK_ID"] != item.ID || env["ANTHROPIC_SESSION_ID"] != s.ID || env["ANTHROPIC_ENVIRONMENT_ID"] != workertest.EnvironmentID ||
				env["ANTHROPIC_BASE_URL"] != b.plane.URL || env["BERTH_WORK_LEASE"] != "child" || !strings.HasPrefix(env["ANTHROPIC_ENVIRONMENT_KEY"], c.want) {
				t.Errorf("in its environment: %v", env)
			}
			if _, ok := env["ANTHROPIC_WORK_SECRET"]; ok {
				t.Error("the secret is in its environment")
			}
			// As its child would.
			token := client.New(b.plane.URL, client.Bearer(env["ANTHROPIC_ENVIRONMENT_KEY"]), nil)
			if _, err := token.Beat(t.Context(), item.EnvironmentID, item.ID, api.NoHeartbeat, 0); err != nil {
				t.Fatal(err)
			}
			b.tell()
			b.wait("the item to be stopped", func() bool { return len(b.stops()) == 1 })
			if got := b.stops()[0]; got.Force || got.Credential != workertest.EnvironmentKey {
				t.Errorf("stopped by %+v", got)
			}
			if out := b.log.String(); !strings.Contains(out, "said\n") || !strings.Contains(out, "exit status 3") {
				t.Error("its output or its status is not in the log")
			}
			if strings.Contains(b.log.String(), "sk-test") {
				t.Error("a credential is in the log")
			}
			if err := b.end(); err != nil {
				t.Error(err)
			}
		})
	}
}

// A script that starts something and comes back, before that has beaten for
// the item or because it never will: the item is left, and offered again.
func TestAScriptThatDetachesIsSafe(t *testing.T) {
	b := start(t, "echo x >> $DIR/ran", nil)
	s := b.plane.Session(workertest.Calls("bash"))
	b.wait("the script to end", func() bool { return strings.Contains(b.log.String(), "leaving it") })
	if n := len(b.stops()); n != 0 {
		t.Fatalf("the item was stopped %d times", n)
	}
	b.wait("the item to be offered again", func() bool { return len(b.plane.Items(s)) > 1 && strings.Count(b.file("ran"), "x") > 1 })
	if err := b.end(); err != nil {
		t.Error(err)
	}
}

func TestTheParentKeepsTheLease(t *testing.T) {
	b := start(t, waits, func(c *Config) { c.Lease = LeaseParent })
	b.plane.SetTTL(10 * time.Second) // a beat every 5 s
	b.plane.Session(workertest.Calls("bash"))
	b.wait("the script and beats", func() bool { return b.file("there") != "" && len(b.plane.Requests(workertest.Beat)) > 1 })
	if !strings.Contains(b.file("env"), "BERTH_WORK_LEASE=parent\n") {
		t.Error("the script is not told who beats")
	}
	b.tell()
	b.wait("the item to be stopped", func() bool { return len(b.stops()) == 1 })
	if got := b.stops()[0]; !got.Force || got.Status != 200 || !strings.HasPrefix(got.Credential, "sk-test-req01-") {
		t.Errorf("stopped by %+v", got)
	}
	if err := b.end(); err != nil {
		t.Error(err)
	}
}

// A lease that is taken from the parent ends the script, and the item is
// touched no more.
func TestALostLeaseEndsTheScript(t *testing.T) {
	b := start(t, "trap 'echo ended > $DIR/end; exit' TERM\n"+strings.Replace(waits, "read x < $DIR/gate", "while :; do sleep 0.05; done", 1), func(c *Config) { c.Lease, c.Most = LeaseParent, 1 })
	b.plane.SetTTL(2 * time.Second)
	s := b.plane.Session(workertest.Calls("bash"))
	b.wait("the script to run", func() bool { return b.file("there") != "" && len(b.plane.Requests(workertest.Beat)) > 0 })
	b.plane.StealLease(s)
	b.wait("the script to end", func() bool { return b.file("end") != "" })
	if n := len(b.stops()); n != 0 {
		t.Errorf("the item was stopped %d times", n)
	}
	b.end()
}

func TestSeveralAtOnce(t *testing.T) {
	b := start(t, "mkfifo $DIR/gate.$ANTHROPIC_SESSION_ID; echo x >> $DIR/ran; read x < $DIR/gate.$ANTHROPIC_SESSION_ID", nil)
	sessions := []*workertest.Session{b.plane.Session(workertest.Calls("bash")), b.plane.Session(workertest.Calls("bash")), b.plane.Session(workertest.Calls("bash"))}
	b.wait("three scripts", func() bool { return strings.Count(b.file("ran"), "x") == 3 })
	for _, s := range sessions {
		if err := os.WriteFile(filepath.Join(b.dir, "gate."+s.ID), []byte("go\n"), 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.end(); err != nil {
		t.Error(err)
	}
}

// The end of taking work is SIGTERM to the scripts, which may end by
// themselves; so is the end of a script's time.
func TestSignals(t *testing.T) {
	script := "trap 'echo told > $DIR/told; exit 0' TERM\necho there > $DIR/there\nwhile :; do sleep 0.05; done"
	for _, timeout := range []time.Duration{0, 3 * time.Second} {
		b := start(t, script, func(c *Config) { c.Timeout = timeout; c.Most = 1 })
		b.plane.Session(workertest.Calls("bash"))
		b.wait("the script to run", func() bool { return b.file("there") != "" })
		if timeout > 0 {
			b.wait("the end of its time", func() bool { return b.file("told") != "" })
		}
		if err := b.end(); err != nil {
			t.Error(err)
		}
		if b.file("told") == "" {
			t.Error("the script was not told to end")
		}
	}
}

func TestAScriptThatCannotBeStartedEndsThePoller(t *testing.T) {
	b := start(t, "", func(c *Config) { c.Script += ".missing" })
	b.plane.Session(workertest.Calls("bash"))
	select {
	case err := <-b.ended:
		if err == nil || !strings.Contains(err.Error(), "cannot be started") {
			t.Errorf("ended with %v", err)
		}
	case <-time.After(patience):
		t.Fatal("it goes on")
	}
	if n := len(b.stops()); n != 0 {
		t.Errorf("an item nobody has begun was stopped %d times", n)
	}
	if err := Check(filepath.Join(b.dir, "script.missing")); err == nil {
		t.Error("a missing script passes the check")
	}
	if err := Check(b.dir); err == nil {
		t.Error("a directory passes the check")
	}
}

func TestOtherItemsAreStopped(t *testing.T) {
	b := start(t, "echo x >> $DIR/ran", nil)
	b.plane.HealthCheck()
	b.wait("the item to be stopped", func() bool { return len(b.stops()) == 1 })
	if b.file("ran") != "" {
		t.Error("the script ran")
	}
	if err := b.end(); err != nil {
		t.Error(err)
	}
}
