// Package awsauth lets a worker's requests into Claude Platform on AWS: signed
// with the machine's AWS credentials, or with a console key. Whatever
// credential a request had is taken off it.
package awsauth

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/smithy-go/logging"
)

// Service is the name under which requests are signed.
const Service = "aws-external-anthropic"

// BaseURL is the platform's address in a region.
func BaseURL(region string) string { return "https://" + Service + "." + region + ".api.aws" }

const (
	maxBody   = 64 << 20         // that is hashed and sent
	chainTime = 30 * time.Second // in which the chain must have credentials
)

// Config says where requests go, and as whom.
type Config struct {
	BaseURL   string // no other origin is sent anything
	Region    string // "" is the AWS settings' own
	Service   string // "" is Service
	Workspace string // "" names none
	Key       string // a console key in place of signatures
	Next      http.RoundTripper
}

// transport makes requests good for one origin. Safe for concurrent use.
type transport struct {
	cfg    Config
	origin *url.URL
	signer *v4.Signer
	creds  aws.CredentialsProvider // nil with a key
	now    func() time.Time
}

// New is a RoundTripper over Next. Without Config.Key it looks up credentials
// in AWS's default chain (variables, files, roles), and fails when there are
// none; they are renewed as they run out.
func New(ctx context.Context, cfg Config) (http.RoundTripper, error) {
	origin, err := url.Parse(cfg.BaseURL)
	if err != nil {
		return nil, fmt.Errorf("base URL: %w", err)
	}
	t := &transport{cfg: cfg, origin: origin, now: time.Now}
	if cfg.Key != "" {
		return t, nil
	}
	ctx, cancel := context.WithTimeout(ctx, chainTime)
	defer cancel()
	settings, err := config.LoadDefaultConfig(ctx, config.WithLogger(logging.Nop{}), config.WithRegion(cfg.Region))
	if err != nil {
		return nil, fmt.Errorf("the AWS settings cannot be read: %w", err)
	}
	if t.cfg.Region = settings.Region; t.cfg.Region == "" {
		return nil, errors.New("no AWS region is set")
	}
	if t.cfg.Service == "" {
		t.cfg.Service = Service
	}
	if _, err := settings.Credentials.Retrieve(ctx); err != nil {
		return nil, fmt.Errorf("the AWS credential chain has nothing: %w", err)
	}
	t.signer, t.creds = v4.NewSigner(), settings.Credentials
	return t, nil
}

func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != t.origin.Scheme || r.URL.Host != t.origin.Host {
		closeBody(r)
		return nil, fmt.Errorf("%s://%s is not the control plane; nothing is signed for it", r.URL.Scheme, r.URL.Host)
	}
	body, err := read(r)
	if err != nil {
		return nil, err
	}
	r = r.Clone(r.Context())
	if body != nil {
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	}
	r.Header.Del("Authorization")
	r.Header.Del("X-Api-Key")
	if t.cfg.Workspace != "" {
		r.Header.Set("Anthropic-Workspace-Id", t.cfg.Workspace)
	}
	if t.creds == nil {
		r.Header.Set("X-Api-Key", t.cfg.Key)
		return t.cfg.Next.RoundTrip(r)
	}
	creds, err := t.creds.Retrieve(r.Context())
	if err != nil {
		return nil, fmt.Errorf("the AWS credentials cannot be renewed: %w", err)
	}
	sum := sha256.Sum256(body)
	if err := t.signer.SignHTTP(r.Context(), creds, r, hex.EncodeToString(sum[:]), t.cfg.Service, t.cfg.Region, t.now()); err != nil {
		return nil, fmt.Errorf("sign the request: %w", err)
	}
	return t.cfg.Next.RoundTrip(r)
}

// read takes the whole body, because its hash is signed before it is sent; nil
// when there is none.
func read(r *http.Request) ([]byte, error) {
	if r.Body == nil || r.Body == http.NoBody {
		return nil, nil
	}
	defer closeBody(r)
	b, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxBody {
		return nil, fmt.Errorf("a request of more than %d bytes cannot be signed", maxBody)
	}
	return b, nil
}

func closeBody(r *http.Request) {
	if r.Body != nil {
		r.Body.Close()
	}
}
