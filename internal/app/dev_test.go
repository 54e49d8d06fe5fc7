package app

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/client"
	"github.com/berthdev/berth/internal/config"
)

// deaf is a Watcher.
type deaf struct{}

func (deaf) Event(api.Event) {}
func (deaf) Note(string)     {}

// startDev gives what dev says of itself, and a stop that wants it to end well.
func startDev(t *testing.T, dir string) (said <-chan Ready, stop func()) {
	t.Helper()
	c := DevConfig{
		Plane:   config.Plane{Store: config.Store{DataDir: dir}, Addr: "127.0.0.1:0", Grace: time.Second, MaxStreams: 10},
		Engine:  config.Engine{MaxSessions: 1, MaxParked: 1, MaxIdle: time.Second, DrainTimeout: time.Second},
		Sandbox: config.Sandbox{Sandbox: "process"}, Log: slog.New(slog.DiscardHandler),
	}
	taking, cancel := context.WithCancel(t.Context())
	ready, ended := make(chan Ready, 10), make(chan error, 1)
	go func() {
		defer close(ready)
		ended <- Dev(taking, t.Context(), c, func(r Ready) error { ready <- r; return nil })
	}()
	return ready, func() {
		t.Helper()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// dev's default environment, or its key, may be taken away: a worker serves
// another one, and what is still good stays as it is.
func TestDevGoesOnWithoutItsEnvironment(t *testing.T) {
	dir := t.TempDir()
	said, stop := startDev(t, dir)
	next := func() Ready {
		t.Helper()
		r, ok := <-said
		if !ok {
			t.Fatal("dev has ended")
		}
		return r
	}
	serves := func(r Ready) {
		t.Helper()
		agent := Agent()
		agent.Model = api.ModelConfig{ID: "scripted"}
		got, err := Run(t.Context(), t.Context(), RunConfig{
			BaseURL: r.BaseURL, APIKey: config.Secret(r.APIKey), EnvironmentID: r.EnvironmentID, Agent: agent,
			Prompt: "```script\n{\"turns\":[{\"tools\":[{\"name\":\"bash\",\"input\":{\"command\":\"true\"}}]},{\"text\":\"done\"}]}\n```",
		}, deaf{})
		if err != nil || got.Stop != api.StopEndTurn {
			t.Fatalf("%+v, %v", got, err)
		}
	}
	first := next()
	cl := client.New(first.BaseURL, client.APIKey(first.APIKey), nil)
	defer cl.CloseIdleConnections()
	if err := cl.DeleteEnvironment(t.Context(), first.EnvironmentID); err != nil {
		t.Fatal(err)
	}
	second := next()
	if second.APIKey != first.APIKey || second.EnvironmentID == first.EnvironmentID || second.EnvironmentKey == first.EnvironmentKey {
		t.Errorf("without its environment: %+v after %+v", second, first)
	}
	serves(second)

	keys, err := cl.Keys(t.Context(), second.EnvironmentID)
	if err != nil || len(keys.Data) != 1 {
		t.Fatal(keys, err)
	}
	if err := cl.RevokeKey(t.Context(), keys.Data[0].ID); err != nil {
		t.Fatal(err)
	}
	third := next()
	if third.APIKey != first.APIKey || third.EnvironmentID != second.EnvironmentID || third.EnvironmentKey == second.EnvironmentKey {
		t.Errorf("without its key: %+v after %+v", third, second)
	}
	serves(third)

	// An archived one is served to its sessions' end, and is no default at the
	// next start.
	if _, err := cl.ArchiveEnvironment(t.Context(), third.EnvironmentID); err != nil {
		t.Fatal(err)
	}
	stop()
	said, stop = startDev(t, dir)
	fourth := next()
	if fourth.APIKey != first.APIKey || fourth.EnvironmentID == third.EnvironmentID {
		t.Errorf("with an archived environment: %+v after %+v", fourth, third)
	}
	serves(fourth)
	stop()
	said, stop = startDev(t, dir)
	if again := next(); again.EnvironmentID != fourth.EnvironmentID || again.EnvironmentKey != fourth.EnvironmentKey {
		t.Errorf("the next start: %+v after %+v", again, fourth)
	}
	stop()
}
