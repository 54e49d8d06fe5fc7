package sqlite

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"

	"github.com/pressly/goose/v3"

	"github.com/berthdev/berth/internal/store"
)

//go:embed migrations/*.sql
var migrations embed.FS

// prepare brings the schema up to date, or checks that it is.
func prepare(ctx context.Context, path string, o store.Options) error {
	if !o.NoMigrate {
		return Migrate(ctx, path)
	}
	st, err := Status(ctx, path)
	if err != nil {
		return err
	}
	if st.Current != st.Latest {
		return fmt.Errorf("database %s has schema %d and this program needs %d: run berth migrate", path, st.Current, st.Latest)
	}
	return nil
}

// Migrate brings the schema of the database at path up to date. A schema
// newer than this program's is an error and left alone.
func Migrate(ctx context.Context, path string) error {
	return with(path, func(p *goose.Provider) error {
		current, latest, err := p.GetVersions(ctx)
		if err != nil {
			return err
		}
		if current > latest {
			return fmt.Errorf("schema %d is newer than this program's %d: use a newer berth", current, latest)
		}
		_, err = p.Up(ctx)
		return err
	})
}

// Status says which migrations the database at path has.
func Status(ctx context.Context, path string) (st store.SchemaStatus, err error) {
	err = with(path, func(p *goose.Provider) error {
		if st.Current, st.Latest, err = p.GetVersions(ctx); err != nil {
			return err
		}
		for _, src := range p.ListSources() {
			if src.Version > st.Current {
				st.Pending = append(st.Pending, src.Path)
			}
		}
		return nil
	})
	return st, err
}

func with(path string, fn func(*goose.Provider) error) error {
	if err := create(path); err != nil {
		return err
	}
	db, err := sql.Open("sqlite", dsn(path))
	if err != nil {
		return fmt.Errorf("migrate %s: %w", path, err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, files, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return fmt.Errorf("migrate %s: %w", path, err)
	}
	if err := fn(p); err != nil {
		return fmt.Errorf("migrate %s: %w", path, err)
	}
	return nil
}
