package skills_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/client"
	"github.com/berthdev/berth/internal/skills"
	"github.com/berthdev/berth/worker"
	"github.com/berthdev/berth/worker/workertest"
)

// files is an archive's content, in order: name, text, name, text.
func zipped(t *testing.T, files ...string) []byte {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for i := 0; i < len(files); i += 2 {
		w, err := z.Create(files[i])
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(w, files[i+1])
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func tarred(t *testing.T, files ...string) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(files); i += 2 {
		h := &tar.Header{Name: files[i], Mode: 0o644, Size: int64(len(files[i+1]))}
		if to, ok := strings.CutPrefix(files[i+1], "-> "); ok {
			h = &tar.Header{Name: files[i], Typeflag: tar.TypeSymlink, Linkname: to}
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			fmt.Fprint(w, files[i+1])
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzipped(b []byte) []byte {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	z.Write(b)
	z.Close()
	return out.Bytes()
}

// prepare has a session with an agent prepared for by the plane's newest
// credential.
func prepare(t *testing.T, plane *workertest.Plane, cache string, agent api.SessionAgent) *worker.Prepared {
	t.Helper()
	p, err := skills.New(cache)
	if err != nil {
		t.Fatal(err)
	}
	got, err := p.Prepare(t.Context(), worker.PrepareInput{
		Session: api.Session{ID: "sesn_1", Agent: agent}, Log: slog.New(slog.DiscardHandler),
		Client: client.New(plane.URL, client.Bearer(workertest.EnvironmentKey), &http.Client{}).WithRetries(0),
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// shape lists what was mounted: where, which files, their modes and text.
func shape(t *testing.T, mounts []worker.Mount) []string {
	t.Helper()
	var all []string
	for _, m := range mounts {
		if !m.ReadOnly {
			t.Errorf("%s can be written to", m.Target)
		}
		err := filepath.WalkDir(m.Source, func(p string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			text, err := os.ReadFile(p)
			rel, _ := filepath.Rel(m.Source, p)
			all = append(all, fmt.Sprintf("%s/%s %v %s", m.Target, rel, info.Mode(), text))
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
	return all
}

func refs(ids ...string) (all []api.SkillRef) {
	for _, id := range ids {
		id, version, _ := strings.Cut(id, "@")
		all = append(all, api.SkillRef{Type: "custom", SkillID: id, Version: version})
	}
	return all
}

func newPlane(t *testing.T) *workertest.Plane {
	p := workertest.New(t)
	p.Session() // an item, whose holder may read skills
	return p
}

func TestSkills(t *testing.T) {
	plane := newPlane(t)
	body := []string{"pdf/SKILL.md", "read me", "pdf/scripts/fill.sh", "fill"}
	plane.Skill(workertest.Skill{ID: "skill_zip", Version: "1", Name: "zipped", Archive: zipped(t, body...)})
	plane.Skill(workertest.Skill{ID: "skill_tar", Version: "1", Name: "a/b/tarred", Archive: tarred(t, append(body, "pdf/link", "-> /etc/passwd")...)})
	plane.Skill(workertest.Skill{ID: "skill_gz", Version: "1", Name: "gzipped", Archive: gzipped(tarred(t, "SKILL.md", "flat", "x/y", "deep"))})
	plane.Skill(workertest.Skill{ID: "skill_roster", Version: "7", Name: "other", Archive: zipped(t, "SKILL.md", "theirs")})
	for _, v := range []string{"9", "10"} {
		plane.Skill(workertest.Skill{ID: "skill_old", Version: v, Name: "old", Older: true, Archive: zipped(t, "SKILL.md", "version "+v)})
	}
	agent := api.SessionAgent{
		Skills:     refs("skill_zip@1", "skill_tar", "skill_gz@latest", "skill_old", "skill_old@9"),
		Multiagent: json.RawMessage(`{"type":"coordinator","agents":["agent_1",{"type":"agent","skills":[{"type":"custom","skill_id":"skill_roster","version":"7"},{"type":"custom","skill_id":"skill_zip","version":"1"}]}]}`),
	}
	cache := t.TempDir()
	got := prepare(t, plane, cache, agent)
	want := []string{
		"skills/zipped/SKILL.md -rwxr-xr-x read me", "skills/zipped/scripts/fill.sh -rwxr-xr-x fill",
		"skills/tarred/SKILL.md -rwxr-xr-x read me", "skills/tarred/scripts/fill.sh -rwxr-xr-x fill",
		"skills/gzipped/SKILL.md -rwxr-xr-x flat", "skills/gzipped/x/y -rwxr-xr-x deep",
		"skills/old/SKILL.md -rwxr-xr-x version 10",
		"skills/other/SKILL.md -rwxr-xr-x theirs",
	}
	if s := shape(t, got.Mounts); !slices.Equal(s, want) {
		t.Errorf("mounted\n%s\nwant\n%s", strings.Join(s, "\n"), strings.Join(want, "\n"))
	}
	if w := []string{`the skill "skill_old" is missing: another skill is called old, too`}; !slices.Equal(got.Warnings, w) {
		t.Errorf("warnings %q", got.Warnings)
	}
	loaded := len(plane.Requests(workertest.LoadSkill))
	if again := prepare(t, plane, cache, agent); len(again.Mounts) != len(got.Mounts) {
		t.Errorf("again: %v", again)
	}
	if n := len(plane.Requests(workertest.LoadSkill)); n != loaded {
		t.Errorf("%d archives were loaded again", n-loaded)
	}
	if left, _ := os.ReadDir(filepath.Join(cache, "tmp")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	none := prepare(t, plane, cache, api.SessionAgent{})
	if len(none.Mounts)+len(none.Warnings) > 0 {
		t.Errorf("an agent without skills: %+v", none)
	}
}

// One skill that cannot be had is a warning; the others are there.
func TestBadSkills(t *testing.T) {
	good := workertest.Skill{ID: "skill_good", Version: "1", Name: "good", Archive: zipped(t, "SKILL.md", "good")}
	for name, c := range map[string]struct {
		skill workertest.Skill
		says  string
	}{
		"a way out":      {workertest.Skill{Name: "bad", Archive: zipped(t, "../SKILL.md", "x")}, `has .. in its name`},
		"an absolute":    {workertest.Skill{Name: "bad", Archive: tarred(t, "/SKILL.md", "x")}, `has an absolute name`},
		"no SKILL.md":    {workertest.Skill{Name: "bad", Archive: zipped(t, "a/README.md", "x")}, "has no SKILL.md"},
		"noise":          {workertest.Skill{Name: "bad", Archive: bytes.Repeat([]byte("noise"), 200)}, "is no tar archive"},
		"a cut gzip":     {workertest.Skill{Name: "bad", Archive: gzipped(tarred(t, "SKILL.md", strings.Repeat("x", 5000)))[:60]}, "archive"},
		"nothing":        {workertest.Skill{Name: "bad"}, "has no SKILL.md"},
		"a name upwards": {workertest.Skill{Name: "a/..", Archive: zipped(t, "SKILL.md", "x")}, "no plain directory name"},
		"a hidden name":  {workertest.Skill{Name: ".ssh", Archive: zipped(t, "SKILL.md", "x")}, "no plain directory name"},
		"not there":      {workertest.Skill{ID: "skill_else", Name: "bad"}, "answers 404"},
	} {
		plane := newPlane(t)
		plane.Skill(good)
		if c.skill.Version = "1"; c.skill.ID == "" {
			c.skill.ID = "skill_bad"
		}
		plane.Skill(c.skill)
		got := prepare(t, plane, t.TempDir(), api.SessionAgent{Skills: refs("skill_bad@1", "skill_good@1")})
		if len(got.Mounts) != 1 || got.Mounts[0].Target != "skills/good" {
			t.Errorf("%s: mounted %v", name, got.Mounts)
		}
		if len(got.Warnings) != 1 || !strings.Contains(got.Warnings[0], "skill_bad") || !strings.Contains(got.Warnings[0], c.says) || strings.Contains(got.Warnings[0], "\n") {
			t.Errorf("%s: warned %q, want %q", name, got.Warnings, c.says)
		}
	}
}

// A download that breaks off or is refused for a while is begun anew.
func TestTroubledDownload(t *testing.T) {
	plane := newPlane(t)
	plane.Skill(workertest.Skill{ID: "skill_1", Version: "1", Name: "one", Archive: zipped(t, "SKILL.md", "x")})
	plane.Inject(workertest.Fault{Route: workertest.LoadSkill, Times: 1, Status: 503})
	plane.Inject(workertest.Fault{Route: workertest.LoadSkill, Times: 1, Lost: true})
	got := prepare(t, plane, t.TempDir(), api.SessionAgent{Skills: refs("skill_1@1")})
	if len(got.Mounts) != 1 || len(got.Warnings) != 0 {
		t.Errorf("got %+v", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p, err := skills.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.Prepare(ctx, worker.PrepareInput{
		Session: api.Session{Agent: api.SessionAgent{Skills: refs("skill_1@1")}}, Log: slog.New(slog.DiscardHandler),
		Client: client.New(plane.URL, client.Bearer(workertest.EnvironmentKey), nil),
	})
	if err == nil {
		t.Error("prepared after the end")
	}
}

// gathering holds downloads back until so many are under way.
type gathering struct {
	mu      sync.Mutex
	missing int
	there   chan struct{} // closed by the last one
}

func (g *gathering) RoundTrip(r *http.Request) (*http.Response, error) {
	if strings.HasSuffix(r.URL.Path, "/content") {
		g.mu.Lock()
		if g.missing--; g.missing == 0 {
			close(g.there)
		}
		g.mu.Unlock()
		select {
		case <-g.there:
		case <-time.After(time.Minute):
			return nil, errors.New("the other downloads did not begin")
		}
	}
	return http.DefaultTransport.RoundTrip(r)
}

func TestSkillsAreDownloadedTogether(t *testing.T) {
	plane := newPlane(t)
	var ids []string
	for i := range 4 {
		id := fmt.Sprint("skill_", i)
		ids = append(ids, id+"@1")
		plane.Skill(workertest.Skill{ID: id, Version: "1", Name: id, Archive: zipped(t, "SKILL.md", id)})
	}
	p, err := skills.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	got, err := p.Prepare(t.Context(), worker.PrepareInput{
		Session: api.Session{ID: "sesn_1", Agent: api.SessionAgent{Skills: refs(ids...)}}, Log: slog.New(slog.DiscardHandler),
		Client: client.New(plane.URL, client.Bearer(workertest.EnvironmentKey), &http.Client{Transport: &gathering{missing: len(ids), there: make(chan struct{})}}).WithRetries(0),
	})
	if err != nil || len(got.Mounts) != len(ids) || len(got.Warnings) > 0 {
		t.Errorf("%+v, %v", got, err)
	}
}

// A session's skills are held until it is let go, each once for each session.
func TestSkillsAreHeldUntilTheEnd(t *testing.T) {
	plane := newPlane(t)
	plane.Skill(workertest.Skill{ID: "skill_1", Version: "1", Name: "one", Archive: zipped(t, "one/SKILL.md", "x")})
	cache := t.TempDir()
	p, err := skills.New(cache)
	if err != nil {
		t.Fatal(err)
	}
	in := worker.PrepareInput{
		Session: api.Session{ID: "sesn_1", Agent: api.SessionAgent{Skills: refs("skill_1")}}, Log: slog.New(slog.DiscardHandler),
		Client: client.New(plane.URL, client.Bearer(workertest.EnvironmentKey), &http.Client{}).WithRetries(0),
	}
	var all []*worker.Prepared
	for range 2 { // downloaded, then found
		got, err := p.Prepare(t.Context(), in)
		if err != nil || len(got.Mounts) != 1 {
			t.Fatalf("%+v, %v", got, err)
		}
		all = append(all, got)
	}
	if n := skills.Held(p); n != 2 {
		t.Errorf("held %d times", n)
	}
	for _, got := range all {
		if err := got.Finish(t.Context(), worker.EndIdle); err != nil {
			t.Fatal(err)
		}
	}
	if n := skills.Held(p); n != 0 {
		t.Errorf("held %d times after the end", n)
	}
}
