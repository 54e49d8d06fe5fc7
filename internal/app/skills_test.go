package app

import (
	"archive/zip"
	"bytes"
	"context"
	"fmt"
	"log/slog"
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
	"github.com/berthdev/berth/worker/workertest"
)

// TestSkillsInASandbox: what a skill brings can be read and run inside, by
// custom tools too, and not be changed.
func TestSkillsInASandbox(t *testing.T) {
	c := config.Sandbox{Runsc: builtRunsc(t)}
	for _, d := range drivers(c, "", t.TempDir(), slog.New(slog.DiscardHandler)) {
		if !slices.Contains([]string{namespaces.Name, gvisor.Name}, d.Name()) {
			continue
		}
		t.Run(d.Name(), func(t *testing.T) {
			if p := d.Probe(t.Context()); !p.OK {
				t.Skipf("%s cannot run here: %s", d.Name(), p.Reason)
			}
			c.Sandbox = d.Name()
			skillsIn(t, c)
		})
	}
}

// builtRunsc is the runsc that test/setup built, "" for none.
func builtRunsc(t *testing.T) string {
	at, err := filepath.Abs("../../bin/runsc")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(at); err != nil {
		return ""
	}
	return at
}

func skillsIn(t *testing.T, way config.Sandbox) {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for name, text := range map[string]string{"greet/SKILL.md": "how to greet\n", "greet/bin/hello": "#!/bin/bash\necho hello from $0\n"} {
		w, err := z.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(w, text)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	plane := workertest.New(t)
	plane.Skill(workertest.Skill{ID: "skill_1", Version: "1", Name: "greet", Archive: b.Bytes()})
	plane.Agent(api.SessionAgent{Skills: []api.SkillRef{{Type: "custom", SkillID: "skill_1", Version: "1"}, {Type: "custom", SkillID: "skill_2", Version: "1"}}})
	bash := func(command string) workertest.Call {
		return workertest.Call{Name: "bash", Input: fmt.Sprintf(`{"command":%q}`, command)}
	}
	s := plane.Session(workertest.Turn{Calls: []workertest.Call{
		bash("skills/greet/bin/hello"),
		{Name: "read", Input: `{"file_path":"skills/greet/SKILL.md"}`},
		bash("echo x >> skills/greet/SKILL.md; rm -f skills/greet/SKILL.md; touch skills/greet/new; mv skills/greet skills/g; touch skills/new"),
		{Name: "write", Input: `{"file_path":"skills/greet/SKILL.md","content":"mine"}`},
		bash("touch own && ls -R skills"),
		{Name: "greeting", Custom: true},
	}})
	state := t.TempDir()
	declared := filepath.Join(state, "tools.yaml")
	if err := os.WriteFile(declared, []byte("tools: [{name: greeting, command: [skills/greet/bin/hello]}]"), 0o600); err != nil {
		t.Fatal(err)
	}
	taking, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- WorkerPoll(taking, t.Context(), WorkerConfig{
			Remote:  config.Remote{BaseURL: plane.URL, EnvironmentID: workertest.EnvironmentID, EnvironmentKey: config.Secret(workertest.EnvironmentKey)},
			Sandbox: way, Engine: config.Engine{MaxSessions: 2, MaxIdle: time.Second}, Pace: "eager", Warm: 1,
			StateDir: state, Tools: declared, Log: slog.New(slog.DiscardHandler),
		})
	}()
	plane.Wait(t, "the session's end", 5*time.Minute, s.Done)
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	got := s.Answers()
	if want := "[the skill \"skill_2\" is missing: the control plane answers 404]\nhello from skills/greet/bin/hello"; strings.TrimSpace(got[0].Text) != want {
		t.Errorf("bash: %q", got[0].Text)
	}
	if !strings.Contains(got[1].Text, "how to greet") {
		t.Errorf("read: %q", got[1].Text)
	}
	if n := strings.Count(got[2].Text, "ermission denied"); n != 5 {
		t.Errorf("%d of 5 changes are refused: %q", n, got[2].Text)
	}
	if !got[3].IsError || !strings.Contains(got[3].Text, "read-only") {
		t.Errorf("write: %q", got[3].Text)
	}
	if want := "skills:\ngreet\n\nskills/greet:\nSKILL.md\nbin\n\nskills/greet/bin:\nhello"; strings.TrimSpace(got[4].Text) != want {
		t.Errorf("ls: %q", got[4].Text)
	}
	if want := "hello from skills/greet/bin/hello"; got[5].Text != want || got[5].IsError {
		t.Errorf("custom tool: %q", got[5].Text)
	}
	kept, err := filepath.Glob(filepath.Join(state, "cache/skills/sha256/*/files/SKILL.md"))
	if err != nil || len(kept) != 1 {
		t.Fatalf("the cache has %v, %v", kept, err)
	}
	if text, _ := os.ReadFile(kept[0]); string(text) != "how to greet\n" {
		t.Errorf("the cache has %q", text)
	}
}
