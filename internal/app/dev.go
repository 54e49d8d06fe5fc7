package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/client"
	"github.com/berthdev/berth/internal/config"
	"github.com/berthdev/berth/internal/plane"
)

// DevConfig is what `berth dev` needs. The worker half gets Engine and
// Sandbox, and nothing of Plane but where the data is.
type DevConfig struct {
	Plane    config.Plane
	Engine   config.Engine
	Warm     int // see WorkerConfig
	Sandbox  config.Sandbox
	Policy   config.Policy
	NoWorker bool
	Log      *slog.Logger
}

// Dev runs both halves until taking ends. ready is called when clients and the
// worker can work: once, and again when the default environment or its key is
// taken away and another is there instead.
func Dev(taking, working context.Context, c DevConfig, ready func(Ready) error) error {
	l, err := listen(c.Plane.Addr)
	if err != nil {
		return err
	}
	var up undo
	defer up.run()
	up.push(func() { l.Close() })
	p, err := startPlane(taking, planeConfig{Plane: c.Plane, Log: c.Log})
	if err != nil {
		return err
	}
	inner := newMemListener()
	s := serve(p.handler, c.Log, l, inner)
	up.push(func() { stopPlane(working, c.Plane.Grace, p, s) })

	hc := innerClient(inner)
	up.push(hc.CloseIdleConnections)
	kept := filepath.Join(c.Plane.DataDir, "dev.json")
	in, err := p.settle(taking, kept, hc)
	if err != nil {
		return err
	}
	for {
		refusal, err := c.serve(taking, working, in, hc, func(r Ready) error {
			r.BaseURL = publicURL(c.Plane, l)
			return ready(r)
		})
		if refusal == nil || err != nil {
			return err
		}
		next, err := p.settle(taking, kept, hc)
		if err != nil {
			return err
		}
		if next == in {
			return fmt.Errorf("the worker has ended: %w", refusal)
		}
		c.Log.Warn("the default environment or its key is gone; another takes its place", "environment", next.EnvironmentID)
		in = next
	}
}

// serve has a worker serve the default environment until taking ends or the
// queue refuses it; refusal says why.
func (c DevConfig) serve(taking, working context.Context, in inmate, hc *http.Client, ready func(Ready) error) (refusal, err error) {
	r := Ready{
		APIKey: in.APIKey, EnvironmentID: in.EnvironmentID, EnvironmentKey: in.EnvironmentKey,
		Models: modelNames(c.Plane.Provider), Tools: "in workers of your own (berth worker poll)",
	}
	refused := make(chan error, 1)
	if !c.NoWorker {
		w, err := runWorker(taking, working, WorkerConfig{
			Remote: config.Remote{BaseURL: innerURL, EnvironmentID: in.EnvironmentID, EnvironmentKey: config.Secret(in.EnvironmentKey)},
			Engine: c.Engine, Sandbox: c.Sandbox, Policy: c.Policy, StateDir: filepath.Join(c.Plane.DataDir, "worker"), Warm: c.Warm, Log: c.Log,
			http: hc,
		}, func(err error) { refused <- err })
		if err != nil {
			return nil, err
		}
		defer w.end()
		r.Tools = "in sandboxes of " + w.driver
		if w.driver == "process" {
			r.Tools = "on this machine, as this user, without isolation (process)"
		}
	}
	if err := ready(r); err != nil {
		return nil, err
	}
	select {
	case refusal = <-refused:
		return refusal, nil
	case <-taking.Done():
		c.Log.Info("stopping", "cause", context.Cause(taking))
		return nil, nil
	}
}

// runningWorker is a worker half of this process, at work.
type runningWorker struct {
	*workerHalf
	stopTaking context.CancelFunc
	working    context.Context
	gone       chan struct{}
}

// runWorker starts a worker half of this process. refused is told why when the
// queue lets it in no more.
func runWorker(taking, working context.Context, c WorkerConfig, refused func(error)) (*runningWorker, error) {
	taking, stopTaking := context.WithCancel(taking)
	h, err := startWorker(taking, c)
	if err != nil {
		stopTaking()
		return nil, err
	}
	r := &runningWorker{workerHalf: h, stopTaking: stopTaking, working: working, gone: make(chan struct{})}
	go func() {
		defer close(r.gone)
		if err := h.worker.Run(taking, working); err != nil {
			refused(err)
		}
	}()
	return r, nil
}

// end takes no more work, waits for what runs and ends the sandboxes. Twice
// is fine.
func (r *runningWorker) end() {
	if r.workerHalf == nil {
		return
	}
	r.stopTaking()
	<-r.gone
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.working), 30*time.Second)
	defer cancel()
	r.stop(ctx)
	r.workerHalf = nil
}

// innerURL is the control plane's address on the in-memory listener.
const innerURL = "http://berth.internal"

// innerClient calls the control plane through the in-memory listener.
func innerClient(l *memListener) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return l.Dial(ctx) },
		MaxIdleConnsPerHost: 256,
		IdleConnTimeout:     time.Minute,
	}}
}

// inmate is what dev keeps between starts, readable by its owner alone, so
// that clients go on with the keys they have.
type inmate struct {
	APIKey         string `json:"api_key"`
	EnvironmentID  string `json:"environment_id"`
	EnvironmentKey string `json:"environment_key"`
}

// settle gives the default environment and keys. What the file keeps of them
// and is still good stays.
func (p *controlPlane) settle(ctx context.Context, file string, hc *http.Client) (in inmate, err error) {
	raw, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return in, cannotWrite(filepath.Dir(file), "--data-dir", err)
	}
	if json.Unmarshal(raw, &in) != nil {
		in = inmate{}
	}
	kept := in
	if !p.opens(ctx, in.APIKey, plane.CallerAPI, "") {
		if in.APIKey, _, err = p.keys.Create(ctx, plane.KeyAPI, "", "berth dev"); err != nil {
			return in, err
		}
	}
	if !p.takesSessions(ctx, in.EnvironmentID) {
		if in.EnvironmentID, err = environmentNamed(ctx, client.New(innerURL, client.APIKey(in.APIKey), hc), "default", nil); err != nil {
			return in, err
		}
	}
	if !p.opens(ctx, in.EnvironmentKey, plane.CallerEnvironment, in.EnvironmentID) {
		if in.EnvironmentKey, _, err = p.keys.Create(ctx, plane.KeyEnvironment, in.EnvironmentID, "berth dev"); err != nil {
			return in, err
		}
	}
	if in == kept {
		return in, nil
	}
	raw, err = json.Marshal(in)
	if err == nil {
		err = writeOwn(file, raw)
	}
	if err != nil {
		return in, cannotWrite(filepath.Dir(file), "--data-dir", err)
	}
	return in, nil
}

// opens says whether a key is good, and that of such a caller.
func (p *controlPlane) opens(ctx context.Context, key string, kind plane.CallerKind, environment string) bool {
	who, err := p.keys.Check(ctx, key)
	return err == nil && who.Kind == kind && who.EnvironmentID == environment
}

// takesSessions says whether an environment is there and not archived.
func (p *controlPlane) takesSessions(ctx context.Context, environment string) bool {
	e, err := p.store.Environment(ctx, environment)
	return err == nil && e.ArchivedAt == nil
}

// environmentNamed gives an environment by its name, made if it is missing.
// Where that one is archived it is the next of "name 2", "name 3" and so on.
func environmentNamed(ctx context.Context, c *client.Client, name string, metadata api.Metadata) (string, error) {
	known := map[string]api.Environment{}
	for e, err := range client.All(func(page string) (*api.Page[api.Environment], error) {
		return c.Environments(ctx, client.EnvironmentQuery{PageQuery: client.PageQuery{Page: page, Limit: 100}, IncludeArchived: true})
	}) {
		if err != nil {
			return "", fmt.Errorf("look for environment %q: %w", name, err)
		}
		known[e.Name] = e
	}
	free := name
	for n := 2; ; n++ {
		e, there := known[free]
		if there && e.ArchivedAt == nil {
			return e.ID, nil
		}
		if !there {
			break
		}
		free = fmt.Sprintf("%s %d", name, n)
	}
	e, err := c.CreateEnvironment(ctx, api.CreateEnvironment{
		Name: free, Config: &api.EnvironmentConfig{Type: "self_hosted"}, Metadata: metadata,
	})
	if err != nil {
		return "", fmt.Errorf("make environment %q: %w", free, err)
	}
	return e.ID, nil
}

// writeOwn writes a file that its owner alone can read, whole or not at all.
func writeOwn(name string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".berth-") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}
