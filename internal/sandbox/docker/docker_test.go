package docker_test

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/berthdev/berth/internal/child"
	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/agent"
	"github.com/berthdev/berth/internal/sandbox/docker"
	"github.com/berthdev/berth/internal/sandbox/docker/dockertest"
	"github.com/berthdev/berth/internal/sandbox/sandboxtest"
)

var shared string // a directory for the binary's life

func TestMain(m *testing.M) {
	child.Main()
	if shared = os.Getenv(sharedName); shared != "" {
		os.Exit(m.Run())
	}
	var err error
	if shared, err = os.MkdirTemp("", "berth-docker-test-"); err != nil {
		panic(err)
	}
	code := m.Run()
	os.RemoveAll(shared)
	os.Exit(code)
}

// Variables by which a worker that is to be killed gets what its test has.
const sharedName, hostName = "BERTH_TEST_DOCKER_SHARED", "BERTH_TEST_DOCKER_HOST"

// program is the agent as it is shipped.
var program = sync.OnceValues(func() (*agent.Program, error) { return sandboxtest.Agent(shared) })

func newDriver(t testing.TB, change func(*docker.Config)) *docker.Driver {
	t.Helper()
	p, err := program()
	if err != nil {
		t.Fatal(err)
	}
	host := os.Getenv(hostName)
	if host == "" {
		host = dockertest.Host(t)
	}
	cfg := docker.Config{Host: host, Dir: filepath.Join(shared, "agent"), Program: p}
	if change != nil {
		change(&cfg)
	}
	return docker.New(cfg)
}

// lend has the workers that a test starts use its daemon and its agent.
func lend(t *testing.T) {
	if os.Getenv(sharedName) != "" {
		return // this is one
	}
	newDriver(t, nil)
	t.Setenv(hostName, dockertest.Host(t))
	t.Setenv(sharedName, shared)
}

func TestDriver(t *testing.T) {
	lend(t)
	sandboxtest.Run(t, func() sandbox.Driver { return newDriver(t, nil) })
}

// TestNothingSurvives has sessions a fifth of which lose their worker.
func TestNothingSurvives(t *testing.T) {
	lend(t)
	sandboxtest.NothingSurvives(t, func() sandbox.Driver { return newDriver(t, nil) }, sandboxtest.Sessions(os.Getenv("BERTH_SOAK")))
}

// TestKilledWhileStarting has workers killed amid the start of a sandbox.
func TestKilledWhileStarting(t *testing.T) {
	lend(t)
	sandboxtest.KilledWhileStarting(t, func() sandbox.Driver { return newDriver(t, nil) }, nil, "docker record", "docker made", "docker started")
}
