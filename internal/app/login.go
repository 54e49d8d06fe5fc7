package app

import (
	"context"
	"net/http"

	"github.com/berthdev/berth/internal/awsauth"
	"github.com/berthdev/berth/internal/config"
)

// login is how requests to the control plane go out, and where to: nil for a
// client of the caller's own. On AWS the address is the region's, unless one
// was given.
func login(ctx context.Context, l config.Login, base string) (*http.Client, string, error) {
	if !l.OnAWS() {
		return nil, base, nil
	}
	if base == config.AnthropicURL {
		if l.AWSRegion == "" {
			return nil, "", &config.Error{Problem: "--auth " + l.Auth + ": no AWS region is set", Cure: "set AWS_REGION or --aws-region, or name the address with --base-url"}
		}
		base = awsauth.BaseURL(l.AWSRegion)
	}
	next := http.DefaultTransport.(*http.Transport).Clone()
	next.MaxIdleConnsPerHost = 64
	c := awsauth.Config{BaseURL: base, Region: l.AWSRegion, Service: l.AWSService, Workspace: l.AWSWorkspace, Next: next}
	if l.Auth == "api-key" {
		c.Key = l.AWSAPIKey.Reveal()
	}
	rt, err := awsauth.New(ctx, c)
	if err != nil {
		return nil, "", &Error{Problem: "--auth " + l.Auth + ": " + err.Error(), Cure: "aws sts get-caller-identity shows what AWS's default chain has", Err: err}
	}
	return &http.Client{Transport: rt}, base, nil
}
