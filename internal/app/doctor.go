package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/berthdev/berth/internal/config"
	"github.com/berthdev/berth/internal/doctor"
	"github.com/berthdev/berth/internal/stage"
	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/store/open"
)

// Doctor looks at what a control plane and a worker need here, or at what a
// worker needs, here and of the control plane that it serves.
func Doctor(ctx context.Context, c config.Plane, ways config.Sandbox, remote config.Remote, in config.Login, state string, workerOnly bool) doctor.Report {
	scratch, err := os.MkdirTemp("", "berth-doctor-")
	if err == nil {
		defer os.RemoveAll(scratch)
	}
	look := doctor.Config{Drivers: drivers(ways, "", scratch, slog.New(slog.DiscardHandler)), Sandbox: ways.Sandbox, Git: stage.Git}
	if workerOnly {
		look.StateDir = state
		look.Remote = &doctor.Remote{BaseURL: remote.BaseURL, EnvironmentID: remote.EnvironmentID, Key: remote.EnvironmentKey.Reveal(), Keyless: in.OnAWS()}
		hc, base, err := login(ctx, in, remote.BaseURL)
		if err != nil {
			look.Remote.Refused = err
		} else {
			look.Remote.HTTP, look.Remote.BaseURL = hc, base
		}
	} else {
		look.DataDir, look.Addr = c.DataDir, c.Addr
		look.Schema = func(ctx context.Context) (store.SchemaStatus, error) {
			if c.Database == "" {
				if _, err := os.Stat(filepath.Join(c.DataDir, "berth.db")); err != nil {
					if !errors.Is(err, os.ErrNotExist) {
						return store.SchemaStatus{}, fmt.Errorf("there is no database in %s", c.DataDir)
					}
					return store.SchemaStatus{}, err
				}
			}
			return open.Status(ctx, c.URL())
		}
		look.Model = func(ctx context.Context) (string, error) {
			return modelNames(c.Provider), checkProvider(ctx, c.Provider)
		}
	}
	report := doctor.Look(ctx, look)
	able := disksHere(slog.New(slog.DiscardHandler))
	for i, d := range report.Drivers {
		report.Drivers[i].Capabilities = withDisk(d.Capabilities, able)
	}
	return report
}
