package awsauth

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/client"
)

const (
	accessKey = "AKIDEXAMPLE"
	secretKey = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
	session   = "a/session=="
	region    = "eu-west-3"
)

// verifier recomputes a signature from what came over the wire, by AWS's
// written rules.
type verifier struct{ service string }

func (v verifier) check(r *http.Request, now time.Time) error {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	fields := map[string]string{}
	scheme, rest, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	for f := range strings.SplitSeq(rest, ", ") {
		k, val, _ := strings.Cut(f, "=")
		fields[k] = val
	}
	stamp := r.Header.Get("X-Amz-Date")
	at, err := time.Parse("20060102T150405Z", stamp)
	if err != nil || now.Sub(at).Abs() > 5*time.Minute {
		return fmt.Errorf("date %q", stamp)
	}
	scope := strings.Join([]string{stamp[:8], region, v.service, "aws4_request"}, "/")
	if scheme != "AWS4-HMAC-SHA256" || fields["Credential"] != accessKey+"/"+scope {
		return fmt.Errorf("authorization %q", r.Header.Get("Authorization"))
	}
	signed := strings.Split(fields["SignedHeaders"], ";")
	for _, must := range []string{"host", "x-amz-date", "x-amz-security-token", "anthropic-workspace-id"} {
		if !slices.Contains(signed, must) {
			return fmt.Errorf("%s is not signed", must)
		}
	}
	var heads strings.Builder
	for _, name := range signed {
		value := r.Header.Get(name)
		switch name {
		case "host":
			value = r.Host
		case "content-length":
			value = fmt.Sprint(r.ContentLength)
		}
		heads.WriteString(name + ":" + strings.Join(strings.Fields(value), " ") + "\n")
	}
	pairs := strings.Split(strings.ReplaceAll(r.URL.RawQuery, "+", "%20"), "&")
	slices.Sort(pairs)
	sum := sha256.Sum256(body)
	canonical := strings.Join([]string{
		r.Method, escape(r.URL.EscapedPath()), strings.Join(pairs, "&"), heads.String(), fields["SignedHeaders"], hex.EncodeToString(sum[:]),
	}, "\n")
	hash := sha256.Sum256([]byte(canonical))
	key := []byte("AWS4" + secretKey)
	for part := range strings.SplitSeq(scope, "/") {
		key = mac(key, part)
	}
	want := hex.EncodeToString(mac(key, strings.Join([]string{scheme, stamp, scope, hex.EncodeToString(hash[:])}, "\n")))
	if want != fields["Signature"] {
		return fmt.Errorf("signature of\n%s", canonical)
	}
	return nil
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	io.WriteString(h, text)
	return h.Sum(nil)
}

// escape is the second encoding of a path.
func escape(path string) string {
	var b strings.Builder
	for _, c := range []byte(path) {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-_.~/", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// platform answers what verify lets in.
func platform(t *testing.T, verify func(*http.Request) error) *httptest.Server {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := verify(r); err != nil {
			http.Error(w, `{"type":"error","error":{"type":"authentication_error","message":"no"}}`, http.StatusForbidden)
			t.Logf("%s %s: %v", r.Method, r.URL, err)
			return
		}
		if strings.HasSuffix(r.URL.Path, "/poll") {
			io.WriteString(w, "null")
			return
		}
		io.WriteString(w, `{"type":"work_queue_stats","data":[]}`)
	}))
	t.Cleanup(srv.Close)
	return srv
}

func chain(t *testing.T) {
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": accessKey, "AWS_SECRET_ACCESS_KEY": secretKey, "AWS_SESSION_TOKEN": session, "AWS_REGION": region,
		"AWS_CONFIG_FILE": "/none", "AWS_SHARED_CREDENTIALS_FILE": "/none", "AWS_EC2_METADATA_DISABLED": "true", "AWS_PROFILE": "",
	} {
		t.Setenv(name, value)
	}
}

func calls(t *testing.T, base string, rt http.RoundTripper) []error {
	t.Helper()
	c := client.New(base, client.Bearer("sk-ant-oat01-item"), &http.Client{Transport: rt}).WithRetries(0)
	_, stats := c.WorkStats(t.Context(), "env_ä b:1+2")
	_, poll := c.Poll(t.Context(), "env_1", client.Poll{Block: 999 * time.Millisecond, ReclaimOlderThan: 2 * time.Second, WorkerID: "a  host+1"})
	_, send := c.Send(t.Context(), "sesn_1", &api.UserMessage{EventHead: api.EventHead{Type: api.TypeUserMessage}, Content: []api.Block{api.Text("größe\x00 \"x\"")}})
	return []error{stats, poll, send}
}

func TestSignaturesHoldBeforeAnIndependentVerifier(t *testing.T) {
	chain(t)
	for _, service := range []string{"", "another-service"} {
		v := verifier{service}
		if service == "" {
			v.service = Service
		}
		srv := platform(t, func(r *http.Request) error {
			if r.Header.Get("X-Amz-Security-Token") != session || r.Header.Get("Anthropic-Workspace-Id") != "wrkspc_1" {
				return errors.New("token or workspace")
			}
			return v.check(r, time.Now())
		})
		rt, err := New(t.Context(), Config{BaseURL: srv.URL, Service: service, Workspace: "wrkspc_1", Next: srv.Client().Transport})
		if err != nil {
			t.Fatal(err)
		}
		for i, err := range calls(t, srv.URL, rt) {
			if err != nil {
				t.Errorf("call %d: %v", i, err)
			}
		}
	}
}

// What is changed on the way is refused, so the verifier verifies.
func TestTheVerifierSeesTampering(t *testing.T) {
	chain(t)
	for name, change := range map[string]func(*http.Request){
		"path":   func(r *http.Request) { r.URL.Path += "x"; r.URL.RawPath = "" },
		"query":  func(r *http.Request) { r.URL.RawQuery += "&a=b" },
		"header": func(r *http.Request) { r.Header.Set("Anthropic-Workspace-Id", "wrkspc_2") },
		"body": func(r *http.Request) {
			if r.Body != nil {
				r.Body = io.NopCloser(io.MultiReader(strings.NewReader("x"), io.LimitReader(r.Body, r.ContentLength-1)))
			} else {
				r.Header.Set("X-Amz-Date", "20010101T000000Z")
			}
		},
	} {
		srv := platform(t, func(r *http.Request) error { return verifier{Service}.check(r, time.Now()) })
		rt, err := New(t.Context(), Config{BaseURL: srv.URL, Workspace: "wrkspc_1", Next: roundTrip(func(r *http.Request) (*http.Response, error) {
			change(r)
			return http.DefaultTransport.RoundTrip(r)
		})})
		if err != nil {
			t.Fatal(err)
		}
		for i, err := range calls(t, srv.URL, rt) {
			if client.StatusOf(err) != http.StatusForbidden {
				t.Errorf("%s changed, call %d: %v", name, i, err)
			}
		}
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestAConsoleKey(t *testing.T) {
	srv := platform(t, func(r *http.Request) error {
		if r.Header.Get("X-Api-Key") != "sk-ant-api03-console" || r.Header.Get("Authorization") != "" || r.Header.Get("Anthropic-Workspace-Id") != "wrkspc_1" {
			return fmt.Errorf("%v", r.Header)
		}
		return nil
	})
	rt, err := New(t.Context(), Config{BaseURL: srv.URL, Key: "sk-ant-api03-console", Workspace: "wrkspc_1", Next: srv.Client().Transport})
	if err != nil {
		t.Fatal(err)
	}
	for i, err := range calls(t, srv.URL, rt) {
		if err != nil {
			t.Errorf("call %d: %v", i, err)
		}
	}
}

func TestNothingIsSignedForAnotherOrigin(t *testing.T) {
	chain(t)
	asked := false
	other := platform(t, func(*http.Request) error { asked = true; return nil })
	for _, key := range []string{"", "sk-ant-api03-console"} {
		rt, err := New(t.Context(), Config{BaseURL: "https://plane.example", Key: key, Next: http.DefaultTransport})
		if err != nil {
			t.Fatal(err)
		}
		for _, err := range calls(t, other.URL, rt) {
			if err == nil || !strings.Contains(err.Error(), "is not the control plane") || asked {
				t.Error(err)
			}
		}
	}
}

func TestAnEmptyChain(t *testing.T) {
	chain(t)
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	if _, err := New(context.Background(), Config{BaseURL: "https://x.example"}); err == nil || !strings.Contains(err.Error(), "has nothing") {
		t.Error(err)
	}
	t.Setenv("AWS_REGION", "")
	if _, err := New(context.Background(), Config{BaseURL: "https://x.example"}); err == nil || !strings.Contains(err.Error(), "region") {
		t.Error(err)
	}
}
