package test

import (
	"context"
	"io"
	"sync"
	"testing"

	"github.com/berthdev/berth/client"
	"github.com/berthdev/berth/test/testenv"
	"github.com/berthdev/berth/worker"
)

// A program polls with the library and starts a `berth worker run` for each
// item, several at one time, with no credential but the item's own.
func TestAPollerLaunchesWorkers(t *testing.T) {
	const n = 3
	w := testenv.Start(t, testenv.Options{})
	agent := w.Agent()
	var sessions []string
	for range n {
		sessions = append(sessions, w.Session(agent, testenv.Script(testenv.Say("I run it.", testenv.Bash("echo launched")), testenv.Say("done"))))
	}
	c := client.New(w.BaseURL, client.Bearer(w.EnvKey), nil)
	defer c.CloseIdleConnections()
	p, err := worker.NewPoller(worker.PollerConfig{Client: c, EnvironmentID: w.EnvironmentID, Drain: true, Block: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	ctx, cancel := context.WithTimeout(t.Context(), testenv.Patience)
	defer cancel()
	var launched sync.WaitGroup
	for count := 0; ; count++ {
		item, err := p.Next(ctx)
		if err == io.EOF && count == n {
			break
		}
		if err != nil {
			t.Fatalf("item %d: %v", count, err)
		}
		child := testenv.Run(t, []string{
			"ANTHROPIC_BASE_URL=" + w.BaseURL, "ANTHROPIC_ENVIRONMENT_ID=" + item.Work.EnvironmentID, "ANTHROPIC_SESSION_ID=" + item.Work.Data.ID,
			"ANTHROPIC_WORK_ID=" + item.Work.ID, "ANTHROPIC_WORK_SECRET=" + *item.Work.Secret,
		}, "worker", "run", "--state-dir", t.TempDir(), "--max-idle", "50ms")
		launched.Go(func() {
			if status := child.Wait(); status != 0 {
				t.Errorf("%s: status %d\n%s", item.Work.ID, status, child.Log())
			}
		})
	}
	for _, s := range sessions {
		events := w.Ended(s)
		checkLog(t, events)
		if got := testenv.Text(testenv.Of(events, "user.tool_result")[0]); got != "launched" {
			t.Errorf("%s: %q", s, got)
		}
	}
	launched.Wait()
}
