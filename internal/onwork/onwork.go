// Package onwork hands each claimed item to a script, as the official
// worker's --on-work does, and several at once: the script starts a container
// or calls somebody else's machine, where `berth worker run` serves the item.
package onwork

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/client"
	"github.com/berthdev/berth/worker"
)

// Who keeps an item's lease alive while its script runs.
const (
	LeaseChild  = "child"  // whatever the script started; this process never beats
	LeaseParent = "parent" // this process, until the script has ended
)

// What the script gets as ANTHROPIC_ENVIRONMENT_KEY.
const (
	CredentialToken = "token" // the item's sessions token; the key for an item that has none
	CredentialKey   = "key"   // the environment's key, as the official worker does
)

const (
	// killAfter is what a script has to end by itself after SIGTERM.
	killAfter = 30 * time.Second
	// lookTime bounds a look at the work list, and pages how much of it is
	// looked through for an item.
	lookTime  = 10 * time.Second
	lookPages = 10
	lookLimit = 100
	stopTime  = 10 * time.Second
)

// Config says what is run for each item, and how.
type Config struct {
	// Script is the program, run without arguments and without a shell.
	Script string
	// Env is its environment, to which the item's variables are added.
	Env []string
	// Output takes what it prints, on either stream.
	Output io.Writer
	// Lease and Credential are one of the words above.
	Lease, Credential string
	// Timeout ends a script; 0 is never.
	Timeout time.Duration
	// Most is how many scripts run at one time.
	Most int

	// BaseURL, EnvironmentKey and Client are the queue's; Client's credential
	// is the key.
	BaseURL        string
	EnvironmentKey string
	Client         *client.Client
	// Next waits for the next item, claimed and acked; io.EOF is the end.
	Next func(context.Context) (worker.Item, error)
	Log  *slog.Logger
}

// Run runs a script for each item until taking ends or the queue refuses
// this worker, then waits for the scripts, which get SIGTERM, or SIGKILL once
// working ends. The error says what nobody can mend by waiting: the queue's
// refusal, or a script that cannot be started.
func Run(taking, working context.Context, c Config) error {
	taking, stop := context.WithCancelCause(taking)
	defer stop(nil)
	var scripts sync.WaitGroup
	defer scripts.Wait()
	room := make(chan struct{}, c.Most)
	var mu sync.Mutex
	var failed error
	for {
		select {
		case room <- struct{}{}:
		case <-taking.Done():
		}
		if taking.Err() != nil {
			break
		}
		item, err := c.Next(taking)
		if err != nil {
			if taking.Err() == nil && !errors.Is(err, io.EOF) {
				c.Log.Error("the queue refuses this worker; the scripts are told to end", "error", err)
				mu.Lock()
				failed = errors.Join(failed, err)
				mu.Unlock()
				stop(err)
			}
			break
		}
		scripts.Go(func() {
			defer func() { <-room }()
			if err := c.serve(taking, working, item); err != nil {
				mu.Lock()
				failed = errors.Join(failed, err)
				mu.Unlock()
				stop(err)
			}
		})
	}
	scripts.Wait()
	mu.Lock()
	defer mu.Unlock()
	return failed
}

// serve runs the script for one item and lets go of the item. The error is a
// script that cannot be started.
func (c Config) serve(taking, working context.Context, item worker.Item) error {
	log := c.Log.With("work", item.Work.ID, "session", item.Work.Data.ID)
	if item.Work.Data.Type != "session" {
		log.Warn("not a session: the script is not run", "type", item.Work.Data.Type)
		c.stop(c.Client, item.Work, false, log)
		return nil
	}
	credential := c.credential(item.Work, log)
	terminate, cancel := context.WithCancelCause(taking)
	defer cancel(nil)
	if c.Timeout > 0 {
		var done context.CancelFunc
		terminate, done = context.WithTimeoutCause(terminate, c.Timeout, errors.New("its time is over"))
		defer done()
	}
	lost := false
	beating, stopBeating := context.WithCancel(context.WithoutCancel(working))
	defer stopBeating()
	beaten := make(chan struct{})
	if c.Lease == LeaseParent {
		go func() {
			defer close(beaten)
			worker.KeepLease(beating, c.Client.WithCredential(client.Bearer(credential)), item, log, func(n worker.LeaseNews) {
				lost = n == worker.LeaseLost
				cancel(fmt.Errorf("the lease is %s", n))
			})
		}()
	} else {
		close(beaten)
	}
	log.Info("running the script")
	began := time.Now()
	err := c.run(terminate, working, item.Work, credential, log)
	stopBeating()
	<-beaten
	var exit *exec.ExitError
	switch {
	case err == nil:
		log.Info("the script ended", "ran", time.Since(began).Round(time.Millisecond))
	case errors.As(err, &exit):
		log.Warn("the script failed", "status", exit.String(), "ran", time.Since(began).Round(time.Millisecond))
	default: // nobody has begun: the item is offered again when its lease lapses
		return fmt.Errorf("the script cannot be started: %w", err)
	}
	switch {
	case lost:
		log.Warn("the item is somebody else's by now")
	case c.Lease == LeaseChild && !c.beaten(item.Work, log):
		log.Warn("nobody the script started has beaten for the item; leaving it, so that it is offered again when its lease lapses")
	case c.Lease == LeaseParent:
		c.stop(c.Client.WithCredential(client.Bearer(credential)), item.Work, true, log)
	default:
		c.stop(c.Client, item.Work, false, log)
	}
	return nil
}

// credential is what the script may hold.
func (c Config) credential(w api.Work, log *slog.Logger) string {
	if c.Credential == CredentialKey || w.Secret == nil || *w.Secret == "" {
		return c.EnvironmentKey
	}
	secret, err := worker.DecodeSecret(*w.Secret)
	if err != nil {
		log.Warn("the item's secret is unreadable; the script gets the environment key", "error", err)
		return c.EnvironmentKey
	}
	return secret.SessionsToken
}

// run runs the script to its end.
func (c Config) run(terminate, kill context.Context, w api.Work, credential string, log *slog.Logger) error {
	stdin, err := json.Marshal(w)
	if err != nil {
		return fmt.Errorf("encode the item: %w", err)
	}
	cmd := exec.CommandContext(kill, c.Script)
	cmd.Stdin = strings.NewReader(string(stdin))
	cmd.Stdout, cmd.Stderr = c.Output, c.Output
	cmd.Env = with(c.Env,
		"ANTHROPIC_WORK_ID="+w.ID, "ANTHROPIC_SESSION_ID="+w.Data.ID, "ANTHROPIC_ENVIRONMENT_ID="+w.EnvironmentID,
		"ANTHROPIC_ENVIRONMENT_KEY="+credential, "ANTHROPIC_BASE_URL="+c.BaseURL, "BERTH_WORK_LEASE="+c.Lease)
	cmd.WaitDelay = time.Second // of what it left behind that holds its streams
	if err := cmd.Start(); err != nil {
		return err
	}
	over := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-over:
			return
		case <-terminate.Done():
		}
		log.Info("stopping the script", "cause", context.Cause(terminate))
		_ = cmd.Process.Signal(syscall.SIGTERM)
		t := time.NewTimer(killAfter)
		defer t.Stop()
		select {
		case <-over:
		case <-t.C:
			log.Warn("the script does not end; killing it", "after", killAfter)
			_ = cmd.Process.Kill()
		}
	})
	err = cmd.Wait()
	close(over)
	watch.Wait()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil // it ended well, and something it started still holds its output
	}
	return err
}

// with replaces variables in an environment.
func with(env []string, set ...string) []string {
	env = slices.Clone(env)
	for _, kv := range set {
		name, _, _ := strings.Cut(kv, "=")
		env = slices.DeleteFunc(env, func(have string) bool { return strings.HasPrefix(have, name+"=") })
	}
	return append(env, set...)
}

// beaten says whether anybody has beaten for the item. Where that cannot be
// seen nobody has: an item that is left is offered again, one that is stopped
// may be lost.
func (c Config) beaten(w api.Work, log *slog.Logger) bool {
	ctx, cancel := context.WithTimeout(context.Background(), lookTime)
	defer cancel()
	page := ""
	for range lookPages {
		list, err := c.Client.WorkItems(ctx, w.EnvironmentID, client.PageQuery{Page: page, Limit: lookLimit})
		if err != nil {
			log.Warn("the work list cannot be read", "error", err)
			return false
		}
		for _, it := range list.Data {
			if it.ID == w.ID {
				return it.LatestHeartbeatAt != nil
			}
		}
		if list.NextPage == nil || *list.NextPage == "" {
			return false
		}
		page = *list.NextPage
	}
	return false
}

// stop ends an item; one that has ended is fine.
func (c Config) stop(as *client.Client, w api.Work, force bool, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.Background(), stopTime)
	defer cancel()
	if _, err := as.Stop(ctx, w.EnvironmentID, w.ID, force); err != nil && client.StatusOf(err) != http.StatusConflict {
		log.Warn("the item could not be stopped; its lease will lapse", "error", err)
	}
}

// Check says whether the script can be run at all.
func Check(script string) error {
	info, err := os.Stat(script)
	switch {
	case err != nil:
		return err
	case info.IsDir() || info.Mode()&0o111 == 0:
		return fmt.Errorf("%s is not executable", script)
	}
	return nil
}
