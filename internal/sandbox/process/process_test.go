package process_test

import (
	"os"
	"testing"

	"github.com/berthdev/berth/internal/child"
	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/process"
	"github.com/berthdev/berth/internal/sandbox/sandboxtest"
)

func TestMain(m *testing.M) {
	child.Main()
	os.Exit(m.Run())
}

func TestDriver(t *testing.T) {
	sandboxtest.Run(t, func() sandbox.Driver { return process.New(process.Config{}) })
}
