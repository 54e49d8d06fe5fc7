package model_test

import (
	"context"
	"testing"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/model"
	"github.com/berthdev/berth/internal/plane"
)

type named string

func (named) Stream(context.Context, model.Request, model.Sink) (model.Response, error) {
	return model.Response{}, nil
}

func TestResolveTakesTheExactIDThenTheLongestPrefix(t *testing.T) {
	r := &model.Registry{}
	r.AddPrefix("claude-", named("claude"), api.Model{ID: "claude-new", CreatedAt: time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)})
	r.AddPrefix("claude-opus", named("opus"))
	r.Add(api.Model{ID: "scripted"}, named("scripted"))
	r.Add(api.Model{ID: "claude-opus-x"}, named("exact"))
	for id, want := range map[string]named{"claude-a": "claude", "claude-opus-5-5": "opus", "scripted": "scripted", "claude-opus-x": "exact"} {
		if m, err := r.Resolve(id); err != nil || m != want {
			t.Errorf("%s: %v, %v", id, m, err)
		}
	}
	for _, id := range []string{"", "scripted2", "gpt"} {
		if _, err := r.Resolve(id); plane.KindOf(err) != plane.NotFound {
			t.Errorf("%s: %v", id, err)
		}
	}
	list := r.List()
	if len(list) != 3 || list[0].ID != "claude-new" || list[1].ID != "claude-opus-x" {
		t.Errorf("%+v", list)
	}
	for _, m := range list {
		if m.Type != "model" || m.DisplayName == "" || m.Lifecycle != "active" || m.AllowedFallbackModels == nil || m.Capabilities == nil {
			t.Errorf("%+v", m)
		}
	}
}

func TestRetry(t *testing.T) {
	for kind, want := range map[model.ErrorKind]bool{
		model.Overloaded: true, model.RateLimited: true, model.Unavailable: true,
		model.RequestFailed: false, model.Billing: false, model.Credential: false,
	} {
		if (&model.Error{Kind: kind}).Retry() != want {
			t.Errorf("%s", kind)
		}
	}
}
