package app

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/auth"
	"github.com/berthdev/berth/internal/config"
	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/store/open"
)

// KeyRing makes, lists and revokes keys, in a database or at a server.
type KeyRing interface {
	// Create makes a key; the answer alone holds the secret.
	Create(context.Context, api.CreateKey) (*api.Key, error)
	// List lists an environment's keys, or the API keys for "".
	List(ctx context.Context, environment string) ([]api.Key, error)
	Revoke(ctx context.Context, id string) error
}

// OpenKeys opens the keys of a database directly, also beside the server that
// uses it. Call done in the end.
func OpenKeys(ctx context.Context, c config.Store) (ring KeyRing, done func(), err error) {
	var o store.Options
	if c.Database == "" && locked(c.DataDir) {
		schema, err := open.Status(ctx, c.URL())
		if err != nil {
			return nil, nil, cannotOpen(c, err)
		}
		o.NoMigrate = schema.Current > 0 // the server's; a new one it may be making just now
	}
	st, err := openStore(ctx, c, o)
	if err != nil {
		return nil, nil, err
	}
	return keyRing{auth.New(st)}, func() { st.Close() }, nil
}

// openStore opens the database, and makes the data directory for SQLite.
func openStore(ctx context.Context, c config.Store, o store.Options) (store.Store, error) {
	if c.Database == "" {
		if err := makeDir(c.DataDir, "--data-dir"); err != nil {
			return nil, err
		}
	}
	st, err := open.Open(ctx, c.URL(), o)
	if err != nil {
		return nil, cannotOpen(c, err)
	}
	return st, nil
}

func cannotOpen(c config.Store, err error) error {
	if c.Database == "" {
		return &Error{Problem: "cannot open the database in " + c.DataDir + ": " + err.Error(),
			Cure: "check that the directory is writable and on a local file system, or choose another with --data-dir", Err: err}
	}
	return &Error{Problem: "cannot open the database: " + err.Error(), Cure: "check --database and that its server can be reached", Err: err}
}

type keyRing struct{ keys *auth.Keys }

func (r keyRing) Create(ctx context.Context, k api.CreateKey) (*api.Key, error) {
	kind := plane.KeyAPI
	if k.Type == "environment" {
		kind = plane.KeyEnvironment
	}
	secret, made, err := r.keys.Create(ctx, kind, k.EnvironmentID, k.Name)
	if err != nil {
		return nil, err
	}
	w := made.Wire()
	w.Key = secret
	return &w, nil
}

func (r keyRing) List(ctx context.Context, environment string) ([]api.Key, error) {
	keys, err := r.keys.List(ctx, environment)
	if err != nil {
		return nil, err
	}
	out := make([]api.Key, len(keys))
	for i, k := range keys {
		out[i] = k.Wire()
	}
	return out, nil
}

func (r keyRing) Revoke(ctx context.Context, id string) error {
	_, err := r.keys.Revoke(ctx, id)
	return err
}

// Migrate brings a database's schema up to date, or with check only looks. It
// gives the schema before, and how it stands after.
func Migrate(ctx context.Context, c config.Store, check bool) (before int64, after store.SchemaStatus, err error) {
	if c.Database == "" {
		if check {
			if _, err := os.Stat(filepath.Join(c.DataDir, "berth.db")); errors.Is(err, os.ErrNotExist) {
				return 0, after, &Error{Problem: "there is no database in " + c.DataDir, Cure: "name another directory with --data-dir, or make one with berth migrate"}
			}
		} else {
			lock, err := lockDir(c.DataDir, "--data-dir")
			if err != nil {
				return 0, after, err
			}
			defer lock.Release()
		}
	}
	st, err := open.Status(ctx, c.URL())
	if err != nil {
		return 0, after, cannotOpen(c, err)
	}
	if check {
		return st.Current, st, nil
	}
	if err := open.Migrate(ctx, c.URL()); err != nil {
		return 0, after, cannotOpen(c, err)
	}
	after, err = open.Status(ctx, c.URL())
	return st.Current, after, err
}
