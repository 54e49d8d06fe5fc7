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

func TestTheMachineHasSomething(t *testing.T) {
	if c := machineHere(t.TempDir()); c.memory <= 0 || c.disk <= 0 || c.pids <= 0 {
		t.Errorf("this machine: %+v", c)
	}
}
