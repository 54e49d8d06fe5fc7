// Package open chooses the engine behind a database URL, so that the contract
// itself links none.
package open

import (
	"context"
	"fmt"
	"net/url"
	"strings"

	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/store/postgres"
	"github.com/berthdev/berth/internal/store/sqlite"
)

// Open opens a store: sqlite:PATH or a bare path, postgres://... or
// postgresql://... Its schema is brought up to date unless o says otherwise.
func Open(ctx context.Context, target string, o store.Options) (store.Store, error) {
	engine, where, err := split(target)
	if err != nil {
		return nil, err
	}
	// Not returned directly: a nil *Store must not become a Store.
	if engine == "postgres" {
		st, err := postgres.Open(ctx, where, o)
		if err != nil {
			return nil, err
		}
		return st, nil
	}
	st, err := sqlite.Open(ctx, where, o)
	if err != nil {
		return nil, err
	}
	return st, nil
}

// Migrate brings a database's schema up to date. A schema newer than this
// program's is an error and left alone.
func Migrate(ctx context.Context, target string) error {
	engine, where, err := split(target)
	if err != nil {
		return err
	}
	if engine == "postgres" {
		return postgres.Migrate(ctx, where)
	}
	return sqlite.Migrate(ctx, where)
}

// Status says which migrations a database has.
func Status(ctx context.Context, target string) (store.SchemaStatus, error) {
	engine, where, err := split(target)
	if err != nil {
		return store.SchemaStatus{}, err
	}
	if engine == "postgres" {
		return postgres.Status(ctx, where)
	}
	return sqlite.Status(ctx, where)
}

// split is the engine's name and what it opens. A URL's password is never in
// an error.
func split(target string) (engine, where string, err error) {
	scheme, rest, found := strings.Cut(target, ":")
	switch {
	case target == "":
		return "", "", fmt.Errorf("no database given: want sqlite:PATH, a path or postgres://USER@HOST/NAME")
	case found && scheme == "sqlite":
		if rest == "" {
			return "", "", fmt.Errorf("sqlite: has no path: want sqlite:PATH")
		}
		return "sqlite", rest, nil
	case found && (scheme == "postgres" || scheme == "postgresql"):
		if _, err := url.Parse(target); err != nil {
			return "", "", fmt.Errorf("the database URL does not parse: want postgres://user:password@host/database")
		}
		return "postgres", target, nil
	case found && strings.HasPrefix(rest, "//"):
		return "", "", fmt.Errorf("database URL of unknown kind %q: want sqlite:PATH, a path or postgres://USER@HOST/NAME", scheme)
	}
	return "sqlite", target, nil
}
