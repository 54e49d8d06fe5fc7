package app

import (
	"testing"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/config"
)

func TestTheModelsThatAreListed(t *testing.T) {
	for _, tt := range []struct {
		name   string
		c      config.Provider
		claude bool
	}{
		{"no provider", config.Provider{}, false},
		{"Anthropic", config.Provider{ModelKey: "sk-ant-x"}, true},
		{"another provider", config.Provider{ModelKey: "x", ModelBaseURL: "http://127.0.0.1:1"}, false},
	} {
		ids := map[string]api.Model{}
		for _, m := range models(tt.c, nil).List() {
			ids[m.ID] = m
		}
		if _, ok := ids["scripted"]; !ok {
			t.Errorf("%s: the scripted model is not listed", tt.name)
		}
		if _, ok := ids["claude-sonnet-5-5"]; ok != tt.claude {
			t.Errorf("%s: listed are %v", tt.name, ids)
		}
	}
}
