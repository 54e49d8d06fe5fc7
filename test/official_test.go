package test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/client"
	"github.com/berthdev/berth/test/testenv"
	"github.com/berthdev/berth/worker/workertest"
)

// counter is one work item for a worker to take over the official way: its
// settings by their names, and the session behind it.
type counter struct {
	t       *testing.T
	plane   *workertest.Plane
	session *workertest.Session
	dir     string
	is      map[string]string // a setting's value
}

// setting is a row of the official command line's table.
type setting struct {
	flag, variable string // "" for a flag or variable that there is not
	verbs          string
	// seen says whether the value was heeded; the log is what the worker said.
	seen func(c *counter, log string) bool
}

func (c *counter) all(route workertest.Route, ok func(workertest.Request) bool) bool {
	seen := c.plane.Requests(route)
	return len(seen) > 0 && !slices.ContainsFunc(seen, func(r workertest.Request) bool { return !ok(r) })
}

// served says that the session's call was answered.
func served(c *counter, _ string) bool { return c.session.Done() && len(c.session.Answers()) == 1 }

// withItsToken says that the item's own token was the credential.
func withItsToken(c *counter, log string) bool {
	return served(c, log) && c.all(workertest.Send, func(r workertest.Request) bool { return strings.HasPrefix(r.Credential, "sk-test-req01-") })
}

var settings = []setting{
	{"--environment-id", "ANTHROPIC_ENVIRONMENT_ID", "poll run", served},
	{"--environment-key", "ANTHROPIC_ENVIRONMENT_KEY", "poll run", served},
	{"--session-id", "ANTHROPIC_SESSION_ID", "run", func(c *counter, log string) bool {
		return c.all(workertest.GetSession, func(r workertest.Request) bool { return r.Session == c.session.ID })
	}},
	{"--work-id", "ANTHROPIC_WORK_ID", "run", func(c *counter, log string) bool {
		return c.all(workertest.Beat, func(r workertest.Request) bool { return r.Work == c.is["ANTHROPIC_WORK_ID"] })
	}},
	{"--worker-id", "ANTHROPIC_WORKER_ID", "poll", func(c *counter, log string) bool {
		return c.all(workertest.Poll, func(r workertest.Request) bool { return r.WorkerID == "worker-of-the-test" })
	}},
	{"--base-url", "ANTHROPIC_BASE_URL", "poll run", served},
	{"--on-work", "", "poll", func(c *counter, log string) bool {
		return strings.Contains(log, "script for "+c.session.ID) && len(c.session.Answers()) == 0
	}},
	{"--workdir", "", "poll run", func(c *counter, log string) bool { return strings.Contains(answer(c), "in "+c.is["--workdir"]) }},
	{"--unrestricted-paths", "", "poll run", func(c *counter, log string) bool {
		return served(c, log) && strings.Contains(log, "--unrestricted-paths has no effect")
	}},
	{"--max-idle", "", "poll run", served},
	{"--log-format", "", "poll run", func(c *counter, log string) bool {
		return served(c, log) && strings.Contains(log, `{"time":`) && !strings.Contains(log, "time=")
	}},
	{"--work-secret-file", "ANTHROPIC_WORK_SECRET_FILE", "run", withItsToken},
	{"", "ANTHROPIC_WORK_SECRET", "run", withItsToken},
	{"", "ANTHROPIC_WORK_LAST_HEARTBEAT", "run", func(c *counter, log string) bool {
		return served(c, log) && c.plane.Requests(workertest.Beat)[1].Expected == c.is["ANTHROPIC_WORK_LAST_HEARTBEAT"]
	}},
}

func answer(c *counter) string {
	if all := c.session.Answers(); len(all) > 0 {
		return all[0].Text
	}
	return ""
}

// offer makes a plane with one item; with claimed it is acked by somebody
// else, and with beaten its lease has begun.
func offer(t *testing.T, claimed, beaten bool) *counter {
	t.Helper()
	p := workertest.New(t)
	dir := t.TempDir()
	script := filepath.Join(dir, "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho \"script for $ANTHROPIC_SESSION_ID\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "work"), 0o755); err != nil {
		t.Fatal(err)
	}
	c := &counter{t: t, plane: p, dir: dir, is: map[string]string{
		"ANTHROPIC_ENVIRONMENT_ID": workertest.EnvironmentID, "ANTHROPIC_ENVIRONMENT_KEY": workertest.EnvironmentKey, "ANTHROPIC_BASE_URL": p.URL,
		"ANTHROPIC_WORKER_ID": "worker-of-the-test", "--on-work": script, "--workdir": filepath.Join(dir, "work"), "--max-idle": "10ms", "--log-format": "json",
	}}
	c.session = p.Session(workertest.Turn{Calls: []workertest.Call{{Name: "bash", Input: `{"command":"echo in $PWD"}`}}}, workertest.Turn{})
	if !claimed {
		return c
	}
	somebody := client.New(p.URL, client.Bearer(workertest.EnvironmentKey), nil)
	defer somebody.CloseIdleConnections()
	w, err := somebody.Poll(t.Context(), workertest.EnvironmentID, client.Poll{})
	if err == nil {
		_, err = somebody.Ack(t.Context(), w.EnvironmentID, w.ID)
	}
	if err != nil {
		t.Fatal(err)
	}
	c.is["ANTHROPIC_WORK_ID"], c.is["ANTHROPIC_SESSION_ID"], c.is["ANTHROPIC_WORK_SECRET"] = w.ID, w.Data.ID, *w.Secret
	c.is["ANTHROPIC_WORK_SECRET_FILE"] = filepath.Join(dir, "secret")
	if err := os.WriteFile(c.is["ANTHROPIC_WORK_SECRET_FILE"], []byte(*w.Secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if beaten {
		beat, err := somebody.Beat(t.Context(), w.EnvironmentID, w.ID, api.NoHeartbeat, 0)
		if err != nil {
			t.Fatal(err)
		}
		c.is["ANTHROPIC_WORK_LAST_HEARTBEAT"] = beat.LastHeartbeat
	}
	return c
}

// required are the settings without which a verb does not start.
var required = map[string][]string{
	"poll": {"ANTHROPIC_ENVIRONMENT_ID", "ANTHROPIC_ENVIRONMENT_KEY", "ANTHROPIC_BASE_URL"},
	"run":  {"ANTHROPIC_ENVIRONMENT_ID", "ANTHROPIC_ENVIRONMENT_KEY", "ANTHROPIC_BASE_URL", "ANTHROPIC_SESSION_ID", "ANTHROPIC_WORK_ID"},
}

// Every flag and variable of the official command line is taken and heeded,
// the flag over the variable.
func TestOfficialFlagsAndVariables(t *testing.T) {
	testenv.Binary(t) // which may take longer than a lease lasts
	for _, s := range settings {
		for verb := range strings.FieldsSeq(s.verbs) {
			for _, by := range []string{"flag", "variable"} {
				if by == "flag" && s.flag == "" || by == "variable" && s.variable == "" {
					continue
				}
				name := s.flag
				if by == "variable" {
					name = s.variable
				}
				t.Run(verb+" "+name, func(t *testing.T) {
					t.Parallel()
					c := offer(t, verb == "run", s.variable == "ANTHROPIC_WORK_LAST_HEARTBEAT")
					args := []string{"worker", verb, "--state-dir", filepath.Join(c.dir, "state")}
					if verb == "poll" {
						args = append(args, "--drain", "--sandbox", "process")
					}
					var env []string
					for _, other := range required[verb] {
						if other != s.variable {
							env = append(env, other+"="+c.is[other])
						}
					}
					switch {
					case by == "variable":
						env = append(env, s.variable+"="+c.is[s.variable])
					case s.flag == "--unrestricted-paths":
						args = append(args, s.flag)
					case s.variable != "":
						args = append(args, s.flag, c.is[s.variable])
						env = append(env, s.variable+"=what the flag wins over")
					default:
						args = append(args, s.flag, c.is[s.flag])
					}
					if s.flag != "--max-idle" {
						env = append(env, "BERTH_MAX_IDLE=10ms")
					}
					p := testenv.Run(t, env, args...)
					if status := p.Wait(); status != 0 || !s.seen(c, p.Log()) {
						t.Errorf("%s: status %d, answers %+v\n%s", strings.Join(args, " "), status, c.session.Answers(), p.Log())
					}
				})
			}
		}
	}
}

// --max-idle 0 is for ever: the session is held until the worker is told to
// stop.
func TestMaxIdleZeroIsForEver(t *testing.T) {
	c := offer(t, false, false)
	c.plane.SetTTL(10 * time.Second) // a beat every 5 s
	var env []string
	for _, name := range required["poll"] {
		env = append(env, name+"="+c.is[name])
	}
	p := testenv.Run(t, env, "worker", "poll", "--state-dir", filepath.Join(c.dir, "state"), "--sandbox", "process", "--max-idle", "0")
	c.plane.Wait(t, "the turn's end", testenv.Patience, c.session.Done)
	beats := len(c.plane.Requests(workertest.Beat))
	c.plane.Wait(t, "a beat after it", testenv.Patience, func() bool { return len(c.plane.Requests(workertest.Beat)) > beats })
	if len(c.plane.Requests(workertest.Stop)) > 0 {
		t.Error("the session was let go")
	}
	p.Signal(syscall.SIGINT)
	if status := p.Wait(); status != 0 {
		t.Errorf("status %d", status)
	}
}

// The page has each of them in its table.
func TestMigratingPageHasTheOfficialFlags(t *testing.T) {
	page, err := os.ReadFile(migratingPage)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range settings {
		cells := []string{"", ""}
		if s.flag != "" {
			cells[0] = "`" + s.flag + "`"
		}
		if s.variable != "" {
			cells[1] = "`" + s.variable + "`"
		}
		verbs := "`" + strings.ReplaceAll(s.verbs, " ", "`, `") + "`"
		row := strings.ReplaceAll("| "+cells[0]+" | "+cells[1]+" | "+verbs+" |", "|  |", "| |")
		if !strings.Contains(string(page), "\n"+row) {
			t.Errorf("%s has no row %s", migratingPage, row)
		}
	}
}
