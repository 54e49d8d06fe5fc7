package worker_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/client"
	"github.com/berthdev/berth/toolset"
	"github.com/berthdev/berth/worker"
)

// greeter is a tool set of one's own.
type greeter struct{}

func (greeter) Owns(name string, custom bool) bool { return custom && name == "greet" }

func (greeter) Run(_ context.Context, c worker.Call) ([]api.Block, bool) {
	return []api.Block{api.Text("Hello!")}, false
}

// desk would be a session's shell and files.
type desk struct{ box }

// mine would open containers, or shells on another machine.
var mine worker.Sandboxes = &boxes{}

// A worker that serves an environment until it is asked to stop: the first
// signal lets running calls finish, the second cancels them.
func ExampleWorker_Run() {
	w, err := worker.New(worker.Config{
		BaseURL:        "http://127.0.0.1:1",
		EnvironmentID:  "env_01example",
		EnvironmentKey: "sk-berth-env01-example",
		Sandboxes:      mine,
		MaxSessions:    16,
	})
	if err != nil {
		log.Fatal(err)
	}
	take, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	work, cancel := context.WithCancel(context.Background())
	defer cancel()
	context.AfterFunc(take, func() {
		again, stop := signal.NotifyContext(work, os.Interrupt)
		defer stop()
		<-again.Done()
		cancel()
	})

	stop() // as a signal would
	fmt.Println(w.Run(take, work))
	// Output: <nil>
}

// A worker that sleeps until the control plane calls: each delivery of
// session.status_run_started empties the queue. Serve hook at the address
// that was registered.
func ExampleWebhook() {
	hook, err := worker.NewWebhook(worker.WebhookConfig{Secrets: []string{"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}})
	if err != nil {
		log.Fatal(err)
	}
	w, err := worker.New(worker.Config{
		BaseURL:        "http://127.0.0.1:1",
		EnvironmentID:  "env_01example",
		EnvironmentKey: "sk-berth-env01-example",
		Sandboxes:      mine,
		Wake:           hook.Wake(),
	})
	if err != nil {
		log.Fatal(err)
	}
	http.Handle("POST /webhook", hook)
	ctx, stop := context.WithCancel(context.Background())
	stop() // as a signal would
	fmt.Println(w.Run(ctx, ctx))
	// Output: <nil>
}

// An item that somebody else has claimed is served once.
func ExampleWorker_HandleItem() {
	w, err := worker.New(worker.Config{
		BaseURL:       "http://127.0.0.1:1",
		EnvironmentID: "env_01example",
		Sandboxes:     mine,
		Tools:         func(toolset.Host) worker.Tools { return greeter{} },
	})
	if err != nil {
		log.Fatal(err)
	}
	work, cancel := context.WithCancel(context.Background())
	cancel() // nobody answers here
	end, err := w.HandleItem(work, work, worker.Item{
		Work:  api.Work{ID: "work_01example", Data: api.WorkData{Type: "session", ID: "sesn_01example"}},
		Acked: true,
	})
	fmt.Println(end, err)
	// Output: cancelled <nil>
}

// withGreeter is the agent toolset and one tool more.
type withGreeter struct{ worker.Tools }

func (t withGreeter) Owns(name string, custom bool) bool {
	return greeter{}.Owns(name, custom) || t.Tools.Owns(name, custom)
}

func (t withGreeter) Run(ctx context.Context, c worker.Call) ([]api.Block, bool) {
	if c.Custom {
		return greeter{}.Run(ctx, c)
	}
	return t.Tools.Run(ctx, c)
}

// Remembers lets bash commands outlive the worker, as without the greeter.
func (t withGreeter) Remembers(c worker.Call) bool {
	r, ok := t.Tools.(worker.Rememberer)
	return ok && r.Remembers(c)
}

// A session's tools may be the agent toolset and one's own custom tools.
func ExampleAgentTools() {
	tools := func(h toolset.Host) worker.Tools { return withGreeter{worker.AgentTools(h)} }
	_, err := worker.New(worker.Config{EnvironmentID: "env_01example", Sandboxes: mine, Tools: tools})
	if err != nil {
		log.Fatal(err)
	}
	t := tools(&desk{})
	fmt.Println(t.Owns("bash", false), t.Owns("greet", true), t.Owns("greet", false))
	// Output: true true false
}

// A poller gives claimed items to a program that serves them by itself.
func ExamplePoller() {
	p, err := worker.NewPoller(worker.PollerConfig{
		Client:        client.New("http://127.0.0.1:1", client.Bearer("sk-berth-env01-example"), nil),
		EnvironmentID: "env_01example",
		Drain:         true,
		AutoStop:      true,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer p.Close()
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // nobody answers here
	for {
		item, err := p.Next(ctx)
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println("serve", item.Work.Data.ID)
	}
	// Output: context canceled
}

// A session that the caller holds by its own means.
func ExampleToolRunner() {
	r, err := worker.NewToolRunner(worker.RunnerConfig{
		Client:    client.New("http://127.0.0.1:1", client.APIKey("sk-berth-api01-example"), nil),
		SessionID: "sesn_01example",
		Tools:     greeter{},
		MaxIdle:   time.Minute,
	})
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // nobody answers here
	end, err := r.Run(ctx, ctx)
	fmt.Println(end, err)
	// Output: cancelled <nil>
}
