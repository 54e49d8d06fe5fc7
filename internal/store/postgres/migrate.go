package postgres

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/berthdev/berth/internal/store"
)

//go:embed migrations/*.sql
var migrations embed.FS

// lockKey is the advisory lock that migrating processes take turns with:
// "berth" in ASCII.
const lockKey = 0x6265727468

// prepare brings the schema up to date, or checks that it is.
func prepare(ctx context.Context, url string, o store.Options) error {
	if !o.NoMigrate {
		return Migrate(ctx, url)
	}
	st, err := Status(ctx, url)
	if err != nil {
		return err
	}
	if st.Current != st.Latest {
		return fmt.Errorf("the PostgreSQL database has schema %d and this program needs %d: run berth migrate", st.Current, st.Latest)
	}
	return nil
}

// Migrate brings the database's schema up to date. Several processes may try
// at once; a schema newer than this program's is an error and left alone.
func Migrate(ctx context.Context, url string) error {
	return with(ctx, url, func(p *goose.Provider) error {
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

// Status says which migrations the database has.
func Status(ctx context.Context, url string) (st store.SchemaStatus, err error) {
	err = with(ctx, url, func(p *goose.Provider) error {
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

func with(ctx context.Context, url string, fn func(*goose.Provider) error) error {
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		return fmt.Errorf("database URL: %w", err)
	}
	db := stdlib.OpenDB(*cfg)
	defer db.Close()
	if err := alone(ctx, db, fn); err != nil {
		return fmt.Errorf("migrate PostgreSQL: %w", err)
	}
	return nil
}

func alone(ctx context.Context, db *sql.DB, fn func(*goose.Provider) error) error {
	lock, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer lock.Close()
	var version int
	if err := lock.QueryRowContext(ctx, "SELECT current_setting('server_version_num')::int").Scan(&version); err != nil {
		return err
	}
	if version < minVersion {
		return fmt.Errorf("the server has version %d.%d, and 15 or newer is needed", version/10000, version%10000)
	}
	if _, err := lock.ExecContext(ctx, "SELECT pg_advisory_lock($1)", int64(lockKey)); err != nil {
		return err
	}
	defer lock.ExecContext(context.WithoutCancel(ctx), "SELECT pg_advisory_unlock($1)", int64(lockKey))
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectPostgres, db, files, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return err
	}
	return fn(p)
}
