package config

import (
	"net/url"
	"strings"
	"time"
)

// Store is where the control plane keeps its data.
type Store struct {
	DataDir  string `help:"Directory of the control plane's data." default:"${data_dir}" type:"path" placeholder:"DIR"`
	Database Secret `help:"Database URL (postgres://...); empty means SQLite in the data directory." placeholder:"URL"`
}

// URL is the database to open.
func (s Store) URL() string {
	if s.Database != "" {
		return s.Database.Reveal()
	}
	return "sqlite:" + s.DataDir + "/berth.db"
}

// Provider is how models are called.
type Provider struct {
	ModelKey     Secret `help:"The model provider's key; better given as the variable than as a flag." env:"ANTHROPIC_API_KEY" placeholder:"KEY"`
	ModelBaseURL string `help:"Base URL of an Anthropic-compatible model provider; empty means Anthropic's own." placeholder:"URL"`
}

// Validate refuses a key or an address that cannot be a model provider's.
func (p Provider) Validate() error {
	if strings.HasPrefix(p.ModelKey.Reveal(), Prefix) {
		return wrong("put the model provider's own key there, and a Berth key in BERTH_API_KEY or ANTHROPIC_ENVIRONMENT_KEY",
			"ANTHROPIC_API_KEY holds a Berth key, which no model provider knows")
	}
	if p.ModelBaseURL != "" {
		return httpURL("--model-base-url", p.ModelBaseURL)
	}
	return nil
}

func httpURL(flag, value string) error {
	u, err := url.Parse(value)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return wrong("give one such as https://host:port", "%s: %q is not an http address", flag, value)
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return wrong("give the address alone", "%s must not carry credentials, a query or a fragment", flag)
	}
	return nil
}

// Plane is the control plane's configuration.
type Plane struct {
	Store    `embed:""`
	Provider `embed:""`

	Addr            string        `help:"Address to listen on; port 0 picks a free one." default:"127.0.0.1:8400" placeholder:"HOST:PORT"`
	PublicURL       string        `help:"Address by which workers and clients reach this server, when it is not --addr." placeholder:"URL"`
	EnvironmentNote bool          `help:"Tell the model about its working directory and where deliverables go." default:"true" negatable:""`
	Lenient         bool          `help:"Let unknown request fields pass instead of refusing them."`
	RateLimit       int           `help:"Requests per minute and credential; 0 means no limit." default:"0"`
	MaxStreams      int           `help:"Open event streams at most." default:"10000"`
	Grace           time.Duration `help:"How long running requests may take to end after the first stop signal." default:"10s"`
}

// Validate checks what flags alone cannot.
func (p Plane) Validate() error {
	if p.PublicURL != "" {
		return httpURL("--public-url", p.PublicURL)
	}
	return nil
}

// Log is how the program speaks of itself, on standard error.
type Log struct {
	LogFormat string `help:"Form of log lines: text or json." enum:"text,json" default:"text"`
	LogLevel  string `help:"Least important log lines shown: debug, info, warn or error." enum:"debug,info,warn,error" default:"info"`
}
