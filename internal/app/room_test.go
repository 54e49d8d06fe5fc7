package app

import (
	"log/slog"
	"testing"

	"github.com/berthdev/berth/internal/sandbox"
)

func TestRoom(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	has := capacity{memory: 16 << 30, disk: 100 << 30, pids: 4096}
	for name, x := range map[string]struct {
		promised sandbox.Limits
		has      capacity
		warm     int
		want     int
	}{
		"no promise":                    {sandbox.Limits{}, has, 2, 0},
		"memory":                        {sandbox.Limits{Memory: 1 << 30}, has, 0, 16},
		"the scarcest counts":           {sandbox.Limits{Memory: 1 << 30, Disk: 20 << 30, PIDs: 100}, has, 0, 5},
		"processes":                     {sandbox.Limits{PIDs: 1024}, has, 0, 4},
		"those kept ready count":        {sandbox.Limits{Memory: 1 << 30}, has, 2, 14},
		"one at least":                  {sandbox.Limits{Memory: 64 << 30}, has, 2, 1},
		"what is not known is no bound": {sandbox.Limits{Memory: 1 << 30, Disk: 1 << 30}, capacity{memory: 4 << 30}, 0, 4},
	} {
		if got := room(x.promised, x.has, x.warm, log); got != x.want {
			t.Errorf("%s: room for %d, want %d", name, got, x.want)
		}
	}
}

func TestReady(t *testing.T) {
	for _, x := range []struct {
		asked    int
		way      string
		promised sandbox.Limits
		want     int
	}{
		{-1, "namespaces", sandbox.Limits{}, 8}, {-1, "process", sandbox.Limits{}, 8}, {-1, "gvisor", sandbox.Limits{}, 2},
		{-1, "namespaces", sandbox.Limits{Memory: 1 << 30}, 2}, {0, "namespaces", sandbox.Limits{}, 0}, {5, "gvisor", sandbox.Limits{}, 5},
	} {
		if got := ready(x.asked, x.way, x.promised); got != x.want {
			t.Errorf("%d of %s, promised %v: %d ready, want %d", x.asked, x.way, x.promised, got, x.want)
		}
	}
}

func TestTheMachineHasSomething(t *testing.T) {
	if c := machineHere(t.TempDir()); c.memory <= 0 || c.disk <= 0 || c.pids <= 0 {
		t.Errorf("this machine: %+v", c)
	}
}
