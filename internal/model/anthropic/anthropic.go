// Package anthropic calls a provider that speaks the Messages API, through
// the official Go SDK: request.go says what is sent, answer.go reads what
// comes back, errors.go what failed.
package anthropic

import (
	"context"
	"net"
	"net/http"
	"strings"
	"time"

	sdk "github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/option"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/model"
)

// Provider marks the answers written here.
const Provider = "anthropic"

// maxAnswer bounds what is read of one answer, in bytes.
const maxAnswer = 64 << 20

// Config says where the provider is. The key never appears in an error or a
// log.
type Config struct {
	APIKey    string
	BaseURL   string       // "" for the provider's own
	MaxTokens int64        // of one answer: 32,000
	HTTP      *http.Client // nil for one without an overall limit that follows no redirect
}

// New makes the model.
func New(c Config) *Model {
	if c.MaxTokens <= 0 {
		c.MaxTokens = 32_000
	}
	if c.HTTP == nil {
		c.HTTP = client()
	}
	opts := []option.RequestOption{
		option.WithoutEnvironmentDefaults(), // the caller has split the environment already
		option.WithHTTPClient(c.HTTP),
		option.WithMaxRetries(0), // the session loop retries
	}
	if c.APIKey != "" {
		opts = append(opts, option.WithAPIKey(c.APIKey))
	}
	if c.BaseURL != "" {
		opts = append(opts, option.WithBaseURL(c.BaseURL))
	}
	return &Model{cfg: c, client: sdk.NewClient(opts...)}
}

func client() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
			ForceAttemptHTTP2:     true,
			MaxIdleConnsPerHost:   100,
			IdleConnTimeout:       90 * time.Second,
			TLSHandshakeTimeout:   10 * time.Second,
			ExpectContinueTimeout: time.Second,
		},
		// A redirect could carry the key to somebody else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Model sends requests to the provider, each once. Safe for concurrent use.
type Model struct {
	cfg    Config
	client sdk.Client
}

var _ model.Model = (*Model)(nil)

// Stream sends the request and reads the answer as it is written.
func (m *Model) Stream(ctx context.Context, r model.Request, to model.Sink) (model.Response, error) {
	params, err := m.params(r)
	if err != nil {
		return model.Response{}, err
	}
	stream := m.client.Messages.NewStreaming(ctx, params, option.WithMiddleware(bounded(to)))
	defer stream.Close()
	a := &answer{to: to}
	for stream.Next() {
		done, err := a.take(stream.Current())
		if err != nil {
			return model.Response{}, m.broken(a, err)
		}
		if done {
			return a.response()
		}
	}
	if err := ctx.Err(); err != nil {
		return model.Response{}, err
	}
	if err := stream.Err(); err != nil {
		return model.Response{}, m.failure(a, err)
	}
	return model.Response{}, m.broken(a, nil)
}

// Models are the provider's models as of this program's release, for the list
// of models; others work, too.
func Models() []api.Model {
	var out []api.Model
	for _, m := range []struct {
		id, name, line, day string
		out                 int
	}{
		{"claude-opus-5-5", "Claude Opus 5.5", "opus", "2026-09-01", 128_000},
		{"claude-sonnet-5-5", "Claude Sonnet 5.5", "sonnet", "2026-09-01", 64_000},
		{"claude-haiku-5-5", "Claude Haiku 5.5", "haiku", "2026-09-01", 64_000},
		{"claude-opus-4-8", "Claude Opus 4.8", "opus", "2026-05-01", 128_000},
		{"claude-sonnet-4-6", "Claude Sonnet 4.6", "sonnet", "2026-02-17", 64_000},
		{"claude-haiku-4-5", "Claude Haiku 4.5", "haiku", "2025-10-15", 64_000},
	} {
		at, err := time.Parse(time.DateOnly, m.day)
		if err != nil {
			panic("anthropic: " + err.Error())
		}
		line := m.line
		out = append(out, model.Fill(api.Model{ID: m.id, DisplayName: m.name, Line: &line, CreatedAt: at, MaxInputTokens: 200_000, MaxTokens: m.out}))
	}
	return out
}

// adaptive says whether a model decides by itself when to think: the Claude
// models from 4.6 on. Others are not asked to.
func adaptive(id string) bool {
	rest, ok := strings.CutPrefix(id, "claude-")
	if !ok {
		return false
	}
	family, version, ok := strings.Cut(rest, "-")
	if !ok || version == "" || family == "" || family[0] < 'a' {
		return false // or one of the old names, with the version before the family
	}
	switch major := version[0]; {
	case major < '4' || major > '9' || len(version) > 1 && version[1] != '-':
		return false
	case major > '4':
		return true
	}
	return len(version) >= 3 && version[2] >= '6' && version[2] <= '9' && (len(version) == 3 || version[3] == '-')
}
