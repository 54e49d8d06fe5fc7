package doctor

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/client"
)

// Remote is the control plane that a worker is to serve. Zero fields are what
// nobody has set.
type Remote struct {
	BaseURL, EnvironmentID, Key string
	// Keyless says that HTTP lets requests in without the key; Refused, where
	// set, why there can be none.
	Keyless bool
	Refused error
	// HTTP carries the request; nil is a client of its own.
	HTTP *http.Client
}

const (
	queueTime  = 15 * time.Second
	clockLimit = 2 * time.Minute // webhooks and signed requests are refused from 5 minutes on
	freeBytes  = 1 << 30
	freeInodes = 10_000
)

// queue asks for the queue's figures with the environment's key, which claims
// nothing, and for the time.
func (r Remote) queue(ctx context.Context) []Finding {
	f := Finding{Name: "queue", State: Bad}
	switch {
	case r.Refused != nil:
		f.Detail, f.Cure = r.Refused.Error(), "see berth doctor --help for what --auth needs"
		return []Finding{f}
	case r.EnvironmentID == "" && r.Key == "":
		f.State, f.Detail = Absent, "no environment is named, so no control plane was asked"
		f.Cure = "set ANTHROPIC_BASE_URL, ANTHROPIC_ENVIRONMENT_ID and ANTHROPIC_ENVIRONMENT_KEY as for the worker"
		return []Finding{f}
	case r.EnvironmentID == "":
		f.Detail, f.Cure = "the environment is not named", "set ANTHROPIC_ENVIRONMENT_ID or --environment-id"
		return []Finding{f}
	case r.Key == "" && !r.Keyless:
		f.Detail, f.Cure = "the environment's key is missing", "set ANTHROPIC_ENVIRONMENT_KEY; berth keys create --environment "+r.EnvironmentID+" makes one"
		return []Finding{f}
	case strings.HasPrefix(r.Key, "sk-ant-api"):
		f.Detail, f.Cure = "ANTHROPIC_ENVIRONMENT_KEY holds an organization's API key", "make a key of this environment alone, and keep the other away from this machine"
		return []Finding{f}
	}
	ctx, cancel := context.WithTimeout(ctx, queueTime)
	defer cancel()
	hc := http.Client{}
	if r.HTTP != nil {
		hc = *r.HTTP
	}
	seen := &dated{next: hc.Transport}
	if seen.next == nil {
		seen.next = http.DefaultTransport
	}
	hc.Transport = seen
	stats, err := client.New(r.BaseURL, client.Bearer(r.Key), &hc).WithRetries(0).WorkStats(ctx, r.EnvironmentID)
	if f.Detail, f.Cure = r.verdict(err); err == nil {
		f.State, f.Detail = Good, r.figures(stats)
	}
	found := []Finding{f}
	if !seen.date.IsZero() {
		found = append(found, agreement(seen.at.Sub(seen.date)))
	}
	return found
}

func (r Remote) figures(s *api.WorkStats) string {
	return fmt.Sprintf("%s at %s: %d waiting, %d delivered", r.EnvironmentID, r.BaseURL, s.Depth, s.Pending)
}

// verdict says why the queue was not shown, and what to do.
func (r Remote) verdict(err error) (detail, cure string) {
	if err == nil {
		return "", ""
	}
	remake := "make one with berth keys create --environment " + r.EnvironmentID + " (or in Anthropic's Console) and set ANTHROPIC_ENVIRONMENT_KEY"
	switch client.StatusOf(err) {
	case http.StatusUnauthorized:
		return r.BaseURL + " refuses the environment's key", remake
	case http.StatusForbidden:
		return "the key is not for " + r.EnvironmentID, remake
	case http.StatusNotFound:
		return "there is no environment " + r.EnvironmentID + " at " + r.BaseURL, "check ANTHROPIC_ENVIRONMENT_ID and ANTHROPIC_BASE_URL"
	case 0:
		if _, ok := errors.AsType[*client.Error](err); !ok {
			return r.BaseURL + " cannot be reached: " + err.Error(), "check ANTHROPIC_BASE_URL, the network, and the proxy and certificates on the way"
		}
	}
	return r.BaseURL + ": " + err.Error(), "look at the control plane, and try again"
}

// dated notes the date of an answer, and when it came.
type dated struct {
	next     http.RoundTripper
	date, at time.Time
}

func (d *dated) RoundTrip(r *http.Request) (*http.Response, error) {
	began := time.Now()
	res, err := d.next.RoundTrip(r)
	if err == nil {
		if date, err := http.ParseTime(res.Header.Get("Date")); err == nil {
			d.date, d.at = date, began.Add(time.Since(began)/2)
		}
	}
	return res, err
}

// agreement judges how far this clock is before the control plane's, whose
// date is cut to the second.
func agreement(ahead time.Duration) Finding {
	f := Finding{Name: "control plane's clock", State: Good, Detail: "agrees with this machine's"}
	off := ahead.Abs().Round(time.Second)
	if off > time.Second {
		f.Detail = fmt.Sprintf("this machine's is %v ahead", off)
		if ahead < 0 {
			f.Detail = fmt.Sprintf("this machine's is %v behind", off)
		}
	}
	if off > clockLimit {
		f.State, f.Cure = Bad, "set the clock of whichever is wrong (timedatectl set-ntp true); signatures and webhooks depend on it"
	}
	return f
}

// space judges what is free where dir is, or will be.
func space(dir string) Finding {
	f := Finding{Name: "disk space", State: Good}
	at := dir
	bytes, inodes, err := free(at)
	for err != nil && filepath.Dir(at) != at {
		at = filepath.Dir(at)
		bytes, inodes, err = free(at)
	}
	if err != nil {
		f.State, f.Detail = Absent, "cannot be told: "+err.Error()
		return f
	}
	f.Detail = fmt.Sprintf("%.1f GiB free for %s", float64(bytes)/(1<<30), dir)
	if bytes < freeBytes {
		f.State, f.Cure = Bad, "make room (berth sandbox gc ends what is left over), or choose another directory with --state-dir"
	} else if inodes < freeInodes {
		f.State, f.Detail = Bad, fmt.Sprintf("%d inodes free for %s", inodes, dir)
		f.Cure = "remove small files, or choose another directory with --state-dir"
	}
	return f
}
