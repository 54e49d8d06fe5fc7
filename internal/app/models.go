package app

import (
	"context"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/config"
	"github.com/berthdev/berth/internal/model"
	"github.com/berthdev/berth/internal/model/anthropic"
	"github.com/berthdev/berth/internal/model/scripted"
)

// models lists the models by name: scripted always, a provider's when there
// is a key or an address for one.
func models(c config.Provider, script *scripted.Script) *model.Registry {
	r := &model.Registry{}
	r.Add(scripted.Info(), scripted.New(scripted.Config{Script: script}))
	if c.ModelKey != "" || c.ModelBaseURL != "" {
		var known []api.Model
		if c.ModelBaseURL == "" { // what another provider has is not known
			known = anthropic.Models()
		}
		r.AddPrefix("", anthropic.New(anthropic.Config{APIKey: c.ModelKey.Reveal(), BaseURL: c.ModelBaseURL}), known...)
	}
	return r
}

// checkProvider refuses an address at which a Berth server answers: it would
// call itself, or another control plane, for its own turns.
func checkProvider(ctx context.Context, c config.Provider) error {
	if c.ModelBaseURL == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimRight(c.ModelBaseURL, "/")+"/v1/models", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil // a provider that is away now may be there for the first turn
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20))
	if resp.Header.Get("Berth-Version") != "" {
		return &config.Error{Problem: "--model-base-url " + c.ModelBaseURL + " is a Berth server, not a model provider",
			Cure: "name the provider's address, or none for Anthropic's own"}
	}
	return nil
}
