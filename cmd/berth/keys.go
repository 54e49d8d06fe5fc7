package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/alecthomas/kong"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/client"
	"github.com/berthdev/berth/internal/app"
	"github.com/berthdev/berth/internal/config"
)

type keysCmd struct {
	Create keysCreate `cmd:"" help:"Make a key; it is shown once."`
	List   keysList   `cmd:"" help:"List keys, revoked ones included."`
	Revoke keysRevoke `cmd:"" help:"Make a key useless from now on."`
}

// keyring is where keys are kept: a server when one is named, else the
// database itself.
type keyring struct {
	config.Store `embed:""`
	BaseURL      string        `help:"Ask this control plane instead of opening the database." placeholder:"URL"`
	APIKey       config.Secret `help:"An API key of it; better given as the variable than as a flag." name:"api-key" placeholder:"KEY"`
	JSON         bool          `help:"Print JSON." name:"json"`
}

// AfterApply lets a flag that was given on the command line stand against a
// variable: --data-dir and --database mean the database, whatever server
// BERTH_BASE_URL names.
func (k *keyring) AfterApply(ctx *kong.Context) error {
	if (given(ctx, "data-dir") || given(ctx, "database")) && !given(ctx, "base-url") {
		k.BaseURL = ""
	}
	return nil
}

// given says that a flag is on the command line, and not only in a variable.
func given(ctx *kong.Context, flag string) bool {
	return slices.ContainsFunc(ctx.Path, func(p *kong.Path) bool { return p.Flag != nil && p.Flag.Name == flag && !p.Resolved })
}

// either settles whether a verb is about an environment's keys or API keys: a
// flag that was given stands against the other's variable.
func either(ctx *kong.Context, environment *string, api *bool) error {
	switch e, a := given(ctx, "environment"), given(ctx, "api"); {
	case *environment == "" || !*api:
	case a && !e:
		*environment = ""
	case e && !a:
		*api = false
	default:
		return &config.Error{Problem: "--environment and --api can't be used together", Cure: "give one of them"}
	}
	return nil
}

func (k keyring) open(ctx context.Context) (app.KeyRing, func(), error) {
	if k.BaseURL == "" {
		return app.OpenKeys(ctx, k.Store)
	}
	r := config.Client{BaseURL: k.BaseURL, APIKey: k.APIKey}
	if err := r.Validate(); err != nil {
		return nil, nil, err
	}
	if err := r.NeedKey(); err != nil {
		return nil, nil, err
	}
	return remoteKeys{client.New(k.BaseURL, client.APIKey(k.APIKey.Reveal()), nil)}, func() {}, nil
}

// with gives do the keys and closes them.
func (k keyring) with(t *term, do func(context.Context, app.KeyRing) error) error {
	ctx, _, end := t.signals()
	defer end()
	ring, done, err := k.open(ctx)
	if err != nil {
		return err
	}
	defer done()
	return do(ctx, ring)
}

// remoteKeys are the keys of a server.
type remoteKeys struct{ *client.Client }

func (r remoteKeys) Create(ctx context.Context, k api.CreateKey) (*api.Key, error) {
	return r.CreateKey(ctx, k)
}

func (r remoteKeys) List(ctx context.Context, environment string) ([]api.Key, error) {
	p, err := r.Keys(ctx, environment)
	if err != nil {
		return nil, err
	}
	return p.Data, nil
}

func (r remoteKeys) Revoke(ctx context.Context, id string) error { return r.RevokeKey(ctx, id) }

type keysCreate struct {
	keyring
	Environment string `help:"Make a key for this environment's workers." short:"e" placeholder:"ID"`
	API         bool   `help:"Make an API key." name:"api"`
	Name        string `help:"A name to know it by."`
	Quiet       bool   `help:"Print the key alone." short:"q"`
}

// AfterApply lets the flag that was given stand.
func (c *keysCreate) AfterApply(ctx *kong.Context) error {
	return errors.Join(c.keyring.AfterApply(ctx), either(ctx, &c.Environment, &c.API))
}

func (c *keysCreate) Run(t *term) error {
	k := api.CreateKey{Type: "environment", EnvironmentID: c.Environment, Name: c.Name}
	switch {
	case c.API:
		k = api.CreateKey{Type: "api", Name: c.Name}
	case c.Environment == "":
		return &config.Error{Problem: "it is not said what the key is for", Cure: "give --environment ENV_ID for a worker's key, or --api for an API key"}
	}
	return c.with(t, func(ctx context.Context, ring app.KeyRing) error {
		made, err := ring.Create(ctx, k)
		if err != nil {
			return err
		}
		switch {
		case c.Quiet:
			_, err = fmt.Fprintln(t.out, made.Key)
		case c.JSON:
			err = t.json(made)
		default:
			err = t.fields([][2]string{{"id", made.ID}, {"type", made.Type}, {"environment", text(made.EnvironmentID)}, {"name", made.Name}, {"key", made.Key}})
			fmt.Fprintln(t.errs, "The key is shown this once; keep it now.")
		}
		return err
	})
}

type keysList struct {
	keyring
	Environment string `help:"This environment's keys; without it the API keys." short:"e" placeholder:"ID"`
	API         bool   `help:"The API keys, also where BERTH_ENVIRONMENT is set." name:"api"`
}

// AfterApply lets the flag that was given stand.
func (c *keysList) AfterApply(ctx *kong.Context) error {
	return errors.Join(c.keyring.AfterApply(ctx), either(ctx, &c.Environment, &c.API))
}

func (c *keysList) Run(t *term) error {
	return c.with(t, func(ctx context.Context, ring app.KeyRing) error {
		keys, err := ring.List(ctx, c.Environment)
		if err != nil {
			return err
		}
		if c.JSON {
			return t.json(map[string]any{"data": keys})
		}
		return t.list([]string{"ID", "TYPE", "NAME", "CREATED", "LAST USED", "REVOKED"}, cells(keys, func(k api.Key) []string {
			return []string{k.ID, k.Type, k.Name, when(k.CreatedAt), whenever(k.LastUsedAt), whenever(k.RevokedAt)}
		}), false)
	})
}

type keysRevoke struct {
	keyring
	ID string `arg:"" help:"The key's id, as keys list shows it."`
}

func (c *keysRevoke) Run(t *term) error {
	return c.with(t, func(ctx context.Context, ring app.KeyRing) error {
		if err := ring.Revoke(ctx, c.ID); err != nil {
			return err
		}
		if c.JSON {
			return t.json(api.Deleted{ID: c.ID, Type: "key_deleted"})
		}
		_, err := fmt.Fprintln(t.out, c.ID, "key_deleted")
		return err
	})
}
