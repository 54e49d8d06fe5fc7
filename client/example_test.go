package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/client"
)

// plane stands for a control plane.
func plane(answers map[string]string) *httptest.Server {
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a, ok := answers[r.Method+" "+r.URL.Path]
		w.Header().Set("Content-Type", "application/json")
		if path.Base(r.URL.Path) == "stream" {
			w.Header().Set("Content-Type", "text/event-stream")
		}
		if !ok {
			w.WriteHeader(404)
			a = `{"type":"error","error":{"type":"not_found_error","message":"there is no such thing"}}`
		}
		io.WriteString(w, a)
	}))
}

// A worker asks for an item and takes it off the queue.
func ExampleClient_Poll() {
	srv := plane(map[string]string{
		"GET /v1/environments/env_1/work/poll":        `{"id":"work_1","environment_id":"env_1","state":"queued","data":{"type":"session","id":"sesn_1"}}`,
		"POST /v1/environments/env_1/work/work_1/ack": `{"id":"work_1","state":"starting"}`,
	})
	defer srv.Close()
	c := client.New(srv.URL, client.Bearer("an environment key"), nil)
	defer c.CloseIdleConnections()
	ctx := context.Background()

	w, err := c.Poll(ctx, "env_1", client.Poll{Block: 999 * time.Millisecond, WorkerID: "example"})
	if err != nil || w == nil {
		fmt.Println("no work", err)
		return
	}
	acked, err := c.Ack(ctx, w.EnvironmentID, w.ID)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(w.Data.ID, "is", acked.State)
	// Output: sesn_1 is starting
}

// A client sends a message and reads what the agent says to it.
func ExampleClient_Stream() {
	srv := plane(map[string]string{
		"POST /v1/sessions/sesn_1/events":       `{"data":[{"type":"user.message","id":"sevt_1","processed_at":null,"content":[]}]}`,
		"GET /v1/sessions/sesn_1/events/stream": "event: agent.message\ndata: {\"type\":\"agent.message\",\"id\":\"sevt_2\",\"content\":[{\"type\":\"text\",\"text\":\"hello\"}]}\n\n",
	})
	defer srv.Close()
	c := client.New(srv.URL, client.APIKey("an API key"), nil)
	defer c.CloseIdleConnections()
	ctx := context.Background()

	stream, err := c.Stream(ctx, "sesn_1", client.StreamOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stream.Close()
	if _, err := c.Send(ctx, "sesn_1", &api.UserMessage{
		EventHead: api.EventHead{Type: api.TypeUserMessage}, Content: []api.Block{api.Text("hi")},
	}); err != nil {
		fmt.Println(err)
		return
	}
	for {
		e, err := stream.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			fmt.Println(err)
			return
		}
		if m, ok := e.(*api.AgentMessage); ok {
			fmt.Println(m.Content[0].Text)
		}
	}
	// Output: hello
}

// An error says what the server said.
func ExampleError() {
	srv := plane(nil)
	defer srv.Close()
	c := client.New(srv.URL, client.APIKey("an API key"), nil)
	defer c.CloseIdleConnections()

	_, err := c.Session(context.Background(), "sesn_1")
	fmt.Println(client.StatusOf(err), err)
	// Output: 404 404 not_found_error: there is no such thing
}
