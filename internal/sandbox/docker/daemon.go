package docker

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/client"
)

const (
	// usualHost is where a daemon listens that nobody configured.
	usualHost = "unix:///var/run/docker.sock"
	// askTime bounds a question to the daemon that moves nothing.
	askTime = 30 * time.Second
)

// daemon is the connection to a daemon, made when it is first needed. Safe for
// concurrent use.
type daemon struct {
	host    string
	runtime string

	mu   sync.Mutex
	api  *client.Client // nil until the daemon has answered and is of use
	info system.Info
}

// trouble is an error with its cure.
type trouble struct{ reason, cure string }

func (t *trouble) Error() string { return t.reason + "; " + t.cure }

// use gives the client once the daemon is known to be fit.
func (d *daemon) use(ctx context.Context) (*client.Client, system.Info, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.api != nil {
		return d.api, d.info, nil
	}
	if !strings.HasPrefix(d.host, "unix://") {
		return nil, d.info, &trouble{"the daemon " + d.host + " is on another machine, where it cannot show a session's files",
			"run the worker beside the daemon, or use --sandbox command with docker --host … exec -i"}
	}
	if runtime.GOOS != "linux" {
		return nil, d.info, &trouble{"the daemon runs in a machine of its own here, where the agent's socket does not reach",
			"run the worker on Linux"}
	}
	api, err := client.New(client.WithHost(d.host))
	if err != nil {
		return nil, d.info, fmt.Errorf("docker: %w", err)
	}
	if d.info, err = d.ask(ctx, api); err != nil {
		api.Close()
		return nil, d.info, err
	}
	d.api = api
	return api, d.info, nil
}

// ask finds out about the daemon.
func (d *daemon) ask(ctx context.Context, api *client.Client) (system.Info, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	res, err := api.Info(ctx, client.InfoOptions{})
	info := res.Info
	switch {
	case err != nil && strings.Contains(err.Error(), "permission denied"):
		return info, &trouble{"this user may not speak to the Docker daemon at " + d.host, "add the user to the daemon's group (usually docker), or run as root"}
	case err != nil:
		return info, &trouble{"no Docker daemon answers at " + d.host + " (" + innermost(err) + ")", "start one, or name another with DOCKER_HOST or --docker-host"}
	case info.OSType != "linux":
		return info, &trouble{"the Docker daemon runs " + info.OSType + " containers", "use a daemon with Linux containers"}
	case slices.ContainsFunc(info.SecurityOptions, func(o string) bool { return strings.HasPrefix(o, "name=rootless") }):
		return info, &trouble{"the Docker daemon is rootless, and users of its containers are not users of this machine", "use --sandbox namespaces, which needs no root either, --sandbox command with docker exec -i, or a daemon that runs as root"}
	}
	if d.runtime != "" {
		if _, ok := info.Runtimes[d.runtime]; !ok {
			var names []string
			for name := range info.Runtimes {
				names = append(names, name)
			}
			slices.Sort(names)
			return info, &trouble{"the Docker daemon has no runtime " + d.runtime, "use one of " + strings.Join(names, ", ") + ", or add it to the daemon's configuration"}
		}
	}
	return info, nil
}

// version says what the daemon is, in one line.
func version(info system.Info, runtime string) string {
	if runtime == "" {
		runtime = info.DefaultRuntime
	}
	return "Docker " + info.ServerVersion + ", " + runtime
}

// firstLine is an error without the daemon client's advice.
func firstLine(err error) string {
	s, _, _ := strings.Cut(err.Error(), "\n")
	return s
}

// innermost is what the kernel said of a call that failed, where it was asked;
// the client says the rest twice.
func innermost(err error) string {
	if no, ok := errors.AsType[syscall.Errno](err); ok {
		return no.Error()
	}
	return firstLine(err)
}

// reason splits an error into what Probe says.
func reason(err error) (why, cure string) {
	if t, ok := errors.AsType[*trouble](err); ok {
		return t.reason, t.cure
	}
	return "a container cannot be used here: " + firstLine(err), "see that docker run works, and that the daemon sees this machine's files"
}
