package worker_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/client"
	"github.com/berthdev/berth/toolset"
	"github.com/berthdev/berth/worker"
	"github.com/berthdev/berth/worker/workertest"
)

// greeter is a custom tool in Go. It needs no sandbox.
type greeter struct{ done chan struct{} }

func (greeter) Owns(name string, custom bool) bool { return custom && name == "greet" }

func (g greeter) Run(_ context.Context, c worker.Call) ([]api.Block, bool) {
	if g.done != nil {
		defer close(g.done)
	}
	return []api.Block{api.Text("Hello!")}, false
}

func greeters(toolset.Host) worker.Tools { return greeter{} }

// greeting is a session whose model calls the custom tool.
func greeting(plane *workertest.Plane) *workertest.Session {
	return plane.Session(workertest.Turn{Calls: []workertest.Call{{Name: "greet", Custom: true}}}, workertest.Turn{})
}

// A worker that serves an environment until it is asked to stop: the first
// signal lets running calls finish, the second cancels them.
func ExampleWorker_Run() {
	plane := workertest.Start() // stands for a control plane
	defer plane.Close()
	session, greeted := greeting(plane), make(chan struct{})

	w, err := worker.New(worker.Config{
		BaseURL:        plane.URL,
		EnvironmentID:  workertest.EnvironmentID,
		EnvironmentKey: workertest.EnvironmentKey,
		MaxSessions:    16,
		Tools:          func(toolset.Host) worker.Tools { return greeter{greeted} },
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

	go func() {
		<-greeted
		stop() // as a signal would
	}()
	fmt.Println(w.Run(take, work))
	fmt.Println(session.Answers()[0].Text)
	// Output:
	// <nil>
	// Hello!
}

// deliver is what a control plane does when a session has work.
func deliver(url, secret string) int {
	body := `{"type":"event","id":"whe_01example","data":{"type":"session.status_run_started","id":"sesn_01example"}}`
	stamp := strconv.FormatInt(time.Now().Unix(), 10)
	key, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	mac := hmac.New(sha256.New, key)
	io.WriteString(mac, "whe_01example."+stamp+"."+body)
	r, _ := http.NewRequest("POST", url, strings.NewReader(body))
	r.Header.Set("webhook-id", "whe_01example")
	r.Header.Set("webhook-timestamp", stamp)
	r.Header.Set("webhook-signature", "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		log.Fatal(err)
	}
	answer.Body.Close()
	return answer.StatusCode
}

// A worker that sleeps until the control plane calls: each delivery of
// session.status_run_started empties the queue. The handler answers before
// anything is polled.
func ExampleWebhook() {
	plane := workertest.Start()
	defer plane.Close()
	const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

	hook, err := worker.NewWebhook(worker.WebhookConfig{Secrets: []string{secret}})
	if err != nil {
		log.Fatal(err)
	}
	greeted := make(chan struct{})
	w, err := worker.New(worker.Config{
		BaseURL:        plane.URL,
		EnvironmentID:  workertest.EnvironmentID,
		EnvironmentKey: workertest.EnvironmentKey,
		Wake:           hook.Wake(),
		Tools:          func(toolset.Host) worker.Tools { return greeter{greeted} },
	})
	if err != nil {
		log.Fatal(err)
	}
	server := httptest.NewServer(hook) // behind TLS, at the address that was registered
	defer server.Close()
	take, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(take, context.Background()) }()

	session := greeting(plane)
	fmt.Println(deliver(server.URL, secret))
	<-greeted
	stop()
	fmt.Println(<-done, session.Answers()[0].Text)
	// Output:
	// 204
	// <nil> Hello!
}

// A webhook's own handler empties the queue: polls are not held, what others
// left for two seconds is taken over, and nobody stops an item but the one who
// serves it (AutoStop is off).
func ExamplePoller_drain() {
	plane := workertest.Start()
	defer plane.Close()
	for range 3 {
		greeting(plane)
	}

	w, err := worker.New(worker.Config{BaseURL: plane.URL, EnvironmentID: workertest.EnvironmentID, Tools: greeters, MaxIdle: time.Millisecond})
	if err != nil {
		log.Fatal(err)
	}
	p, err := worker.NewPoller(worker.PollerConfig{
		Client:        client.New(plane.URL, client.Bearer(workertest.EnvironmentKey), nil),
		EnvironmentID: workertest.EnvironmentID,
		Drain:         true,
		Block:         -1,
		Reclaim:       2 * time.Second,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer p.Close()
	ctx := context.Background()
	var items sync.WaitGroup
	for {
		item, err := p.Next(ctx)
		if err == io.EOF {
			break
		}
		if err != nil {
			log.Fatal(err)
		}
		items.Go(func() {
			if _, err := w.HandleItem(ctx, ctx, item); err != nil {
				log.Print(err)
			}
		})
	}
	items.Wait()
	fmt.Println("items left:", plane.Live())
	// Output: items left: 0
}

// A container for each item: the poller claims, a goroutine launches, and what
// is launched beats, serves and stops. The container gets the item's own
// token, and never the environment's key.
func ExamplePoller_containers() {
	plane := workertest.Start()
	defer plane.Close()
	plane.Session(workertest.Calls("bash"))

	// docker run --rm -e … berth-worker, where this machine has it.
	run := []string{"sh", "-c", `echo "a container for $ANTHROPIC_SESSION_ID, token: ${ANTHROPIC_WORK_SECRET:+yes}"`}
	launch := func(ctx context.Context, item worker.Item) error {
		cmd := exec.CommandContext(ctx, run[0], run[1:]...)
		cmd.Env = []string{
			"PATH=" + os.Getenv("PATH"),
			"ANTHROPIC_BASE_URL=" + plane.URL,
			"ANTHROPIC_ENVIRONMENT_ID=" + item.Work.EnvironmentID,
			"ANTHROPIC_SESSION_ID=" + item.Work.Data.ID,
			"ANTHROPIC_WORK_ID=" + item.Work.ID,
			"ANTHROPIC_WORK_SECRET=" + *item.Work.Secret,
		}
		out, err := cmd.Output()
		fmt.Print(string(out))
		return err
	}

	p, err := worker.NewPoller(worker.PollerConfig{
		Client:        client.New(plane.URL, client.Bearer(workertest.EnvironmentKey), nil),
		EnvironmentID: workertest.EnvironmentID,
		Drain:         true, // for this example to end
	})
	if err != nil {
		log.Fatal(err)
	}
	defer p.Close()
	ctx := context.Background()
	var launched sync.WaitGroup
	room := make(chan struct{}, 8) // containers at one time
	for {
		room <- struct{}{}
		item, err := p.Next(ctx)
		if err != nil {
			break // io.EOF is the end of a drain
		}
		launched.Go(func() {
			defer func() { <-room }()
			if err := launch(ctx, item); err != nil {
				log.Printf("%s: %v", item.Work.ID, err) // its lease lapses, and it is offered again
			}
		})
	}
	launched.Wait()
	// Output: a container for sesn_01test000001, token: yes
}

// A poller that hands items to one helper after the other, and stops each when
// the helper is done with it.
func ExamplePoller() {
	plane := workertest.Start()
	defer plane.Close()
	plane.Session(workertest.Calls("bash"))
	p, err := worker.NewPoller(worker.PollerConfig{
		Client:        client.New(plane.URL, client.Bearer(workertest.EnvironmentKey), nil),
		EnvironmentID: workertest.EnvironmentID,
		Drain:         true,
		AutoStop:      true,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer p.Close()
	for {
		item, err := p.Next(context.Background())
		if err != nil {
			fmt.Println(err)
			break
		}
		fmt.Println("serve", item.Work.Data.ID)
	}
	// Output:
	// serve sesn_01test000001
	// EOF
}

// An item that somebody else has claimed is served once; its secret holds the
// credential.
func ExampleWorker_HandleItem() {
	plane := workertest.Start()
	defer plane.Close()
	session := greeting(plane)
	ctx := context.Background()
	somebody := client.New(plane.URL, client.Bearer(workertest.EnvironmentKey), nil)
	claimed, err := somebody.Poll(ctx, workertest.EnvironmentID, client.Poll{})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := somebody.Ack(ctx, workertest.EnvironmentID, claimed.ID); err != nil {
		log.Fatal(err)
	}

	w, err := worker.New(worker.Config{BaseURL: plane.URL, EnvironmentID: workertest.EnvironmentID, Tools: greeters, MaxIdle: time.Millisecond})
	if err != nil {
		log.Fatal(err)
	}
	end, err := w.HandleItem(ctx, ctx, worker.Item{Work: *claimed, Acked: true})
	fmt.Println(end, err, session.Answers()[0].Text)
	// Output: idle <nil> Hello!
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

// mine would open containers, or shells on another machine.
var mine worker.Sandboxes = &boxes{}

// A session's tools may be the agent toolset over one's own sandboxes and
// custom tools in Go beside it.
func ExampleAgentTools() {
	plane := workertest.Start()
	defer plane.Close()
	session := plane.Session(workertest.Turn{Calls: []workertest.Call{
		{Name: "bash", Input: `{"command":"echo hello"}`}, {Name: "greet", Custom: true},
	}}, workertest.Turn{})

	w, err := worker.New(worker.Config{
		BaseURL: plane.URL, EnvironmentID: workertest.EnvironmentID, EnvironmentKey: workertest.EnvironmentKey,
		Sandboxes: mine,
		Tools:     func(h toolset.Host) worker.Tools { return withGreeter{worker.AgentTools(h)} },
		Drain:     true,
		MaxIdle:   time.Millisecond,
	})
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	fmt.Println(w.Run(ctx, ctx))
	for _, a := range session.Answers() {
		fmt.Println(a.Text)
	}
	// Output:
	// <nil>
	// hello
	// Hello!
}

// The agent toolset with limits of one's own.
func ExampleToolsOf() {
	tools := func(h toolset.Host) worker.Tools {
		return worker.ToolsOf(toolset.New(h, toolset.Options{MaxFileBytes: 1 << 20, Timeout: time.Minute}))
	}
	_, err := worker.New(worker.Config{EnvironmentID: "env_01example", Sandboxes: mine, Tools: tools})
	fmt.Println(err)
	// Output: <nil>
}

// A session that the caller holds by its own means: its calls are answered
// until its turn has been over for a while.
func ExampleToolRunner() {
	plane := workertest.Start()
	defer plane.Close()
	session := greeting(plane)

	r, err := worker.NewToolRunner(worker.RunnerConfig{
		Client:    client.New(plane.URL, client.Bearer(workertest.EnvironmentKey), nil),
		SessionID: session.ID,
		Tools:     greeter{},
		MaxIdle:   time.Millisecond,
	})
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	end, err := r.Run(ctx, ctx)
	fmt.Println(end, err, session.Answers()[0].Text)
	// Output: idle <nil> Hello!
}
