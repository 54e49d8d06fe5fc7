package docker_test

import (
	"os"
	"os/exec"
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
	var err error
	if shared, err = os.MkdirTemp("", "berth-docker-test-"); err != nil {
		panic(err)
	}
	code := m.Run()
	os.RemoveAll(shared)
	os.Exit(code)
}

// program is the agent as it is shipped.
var program = sync.OnceValues(func() (*agent.Program, error) {
	path := filepath.Join(shared, "berth-agent")
	build := exec.Command("go", "build", "-o", path, "github.com/berthdev/berth/cmd/berth-agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		os.Stderr.Write(out)
		return nil, err
	}
	return agent.Open(path)
})

func newDriver(t testing.TB, change func(*docker.Config)) *docker.Driver {
	t.Helper()
	p, err := program()
	if err != nil {
		t.Fatal(err)
	}
	cfg := docker.Config{Host: dockertest.Host(t), Dir: filepath.Join(shared, "agent"), Program: p}
	if change != nil {
		change(&cfg)
	}
	return docker.New(cfg)
}

func TestDriver(t *testing.T) {
	sandboxtest.Run(t, func() sandbox.Driver { return newDriver(t, nil) })
}
