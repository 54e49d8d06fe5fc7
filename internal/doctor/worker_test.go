package doctor

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

const testKey = "sk-berth-env01-secret"

func TestQueue(t *testing.T) {
	t.Parallel()
	stats := `{"type":"work_queue_stats","depth":3,"pending":2,"oldest_queued_at":null,"workers_polling":1}`
	for name, c := range map[string]struct {
		change func(*Remote)
		status int
		shift  time.Duration
		state  State
		detail string
		cure   string
		clock  State
	}{
		"well":           {status: 200, state: Good, detail: "3 waiting, 2 delivered", clock: Good},
		"clock behind":   {status: 200, shift: 3 * time.Minute, state: Good, detail: "3 waiting", clock: Bad},
		"clock ahead":    {status: 200, shift: -3 * time.Minute, state: Good, detail: "3 waiting", clock: Bad},
		"wrong key":      {status: 401, state: Bad, detail: "refuses the environment's key", cure: "berth keys create --environment env_1", clock: Good},
		"other's key":    {status: 403, state: Bad, detail: "not for env_1", cure: "berth keys create", clock: Good},
		"no environment": {status: 404, state: Bad, detail: "no environment env_1", cure: "ANTHROPIC_ENVIRONMENT_ID", clock: Good},
		"broken":         {status: 500, state: Bad, detail: "500", cure: "try again", clock: Good},
		"nobody there":   {change: func(r *Remote) { r.BaseURL = "http://127.0.0.1:1" }, state: Bad, detail: "cannot be reached", cure: "ANTHROPIC_BASE_URL"},
		"nothing set":    {change: func(r *Remote) { r.EnvironmentID, r.Key = "", "" }, state: Absent, detail: "no environment", cure: "ANTHROPIC_ENVIRONMENT_ID"},
		"no id":          {change: func(r *Remote) { r.EnvironmentID = "" }, state: Bad, detail: "not named", cure: "ANTHROPIC_ENVIRONMENT_ID"},
		"no key":         {change: func(r *Remote) { r.Key = "" }, state: Bad, detail: "missing", cure: "ANTHROPIC_ENVIRONMENT_KEY"},
		"API key":        {change: func(r *Remote) { r.Key = "sk-ant-api03-x" }, state: Bad, detail: "organization's", cure: "environment alone"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method != http.MethodGet || r.URL.Path != "/v1/environments/env_1/work/stats" || r.Header.Get("Authorization") != "Bearer "+testKey {
					t.Errorf("asked %s %s", r.Method, r.URL)
				}
				w.Header().Set("Date", time.Now().Add(c.shift).UTC().Format(http.TimeFormat))
				w.WriteHeader(c.status)
				if c.status == 200 {
					w.Write([]byte(stats))
				}
			}))
			defer srv.Close()
			r := Remote{BaseURL: srv.URL, EnvironmentID: "env_1", Key: testKey, HTTP: srv.Client()}
			if c.change != nil {
				c.change(&r)
			}
			found := r.queue(t.Context())
			f := found[0]
			if f.State != c.state || !strings.Contains(f.Detail, c.detail) || !strings.Contains(f.Cure, c.cure) || f.State != Good && f.Cure == "" {
				t.Errorf("%+v", f)
			}
			if c.clock == "" && len(found) != 1 || c.clock != "" && (len(found) != 2 || found[1].State != c.clock || c.clock == Bad && found[1].Cure == "") {
				t.Errorf("the clock: %+v", found)
			}
			for _, f := range found {
				if strings.Contains(f.Detail+f.Cure, testKey) {
					t.Error("the key is shown")
				}
			}
		})
	}
}

func TestSpace(t *testing.T) {
	t.Parallel()
	if f := space(t.TempDir() + "/not/there"); f.State == Absent || !strings.Contains(f.Detail, "GiB free for") {
		t.Errorf("%+v", f)
	}
	if f := space("/proc"); f.State != Bad || f.Cure == "" { // it has no room at all
		t.Errorf("%+v", f)
	}
}
