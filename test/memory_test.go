package test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/test/testenv"
	"github.com/berthdev/berth/worker/workertest"
)

// memoryPlay is a session whose only store is changed by itself, by a first
// call, and then by somebody else, before its second and last call.
type memoryPlay struct {
	plane   *workertest.Plane
	store   *workertest.MemoryStore
	session *workertest.Session
}

func newMemoryPlay(t *testing.T, at string) *memoryPlay {
	p := &memoryPlay{plane: workertest.New(t)}
	p.store = p.plane.MemoryStore("notes")
	for i := range 30 { // two pages
		p.store.Put(fmt.Sprintf("/many/%02d.md", i), fmt.Sprint(i))
	}
	for _, name := range []string{"edited", "deleted", "theirs", "both", "dropped", "dropped-edited", "deleted-theirs"} {
		p.store.Put("/"+name, "old\n")
	}
	r := p.store.Resource(api.MemoryReadWrite)
	r.MountPath = at
	p.plane.Resources(r)
	script := `cd ` + at + ` && echo mine > edited && echo mine > both && echo mine > dropped-edited && echo mine > "my new file" && mkdir -p a/b && echo deep > a/b/c.md && ` +
		`rm deleted deleted-theirs many/07.md && printf 'bin\xff' > binary && head -c 200000 /dev/zero | tr '\0' x > large && : > empty && ln -s edited link && cat many/29.md`
	p.session = p.plane.Session(workertest.Turn{Calls: []workertest.Call{
		{Name: "bash", Input: mustJSON(map[string]string{"command": script})}, {Name: "bash", Input: `{"command":"true"}`, Permission: api.PermissionAsk},
	}})
	return p
}

// meddle waits for the first call's end, and changes the store.
func (p *memoryPlay) meddle(t *testing.T) {
	t.Helper()
	p.plane.Wait(t, "the first call", testenv.Patience, func() bool { return len(p.session.Answers()) == 1 })
	if a := p.session.Answers()[0]; a.IsError || !strings.Contains(a.Text, "29") {
		t.Fatalf("the first call: %q", a.Text)
	}
	for _, name := range []string{"theirs", "both", "deleted-theirs", "new of theirs"} {
		p.store.Put("/"+name, "theirs\n")
	}
	p.store.Drop("/dropped")
	p.store.Drop("/dropped-edited")
}

// finish lets the second call run, and waits for the item's end.
func (p *memoryPlay) finish(t *testing.T) {
	t.Helper()
	p.session.Confirm(p.session.CallIDs()[1], "allow")
	p.plane.Wait(t, "the session's end", testenv.Patience, p.session.Done)
	p.plane.Wait(t, "the item's end", testenv.Patience, func() bool { return len(p.plane.Requests(workertest.Stop)) > 0 })
}

// want is what the store has in the end.
func (p *memoryPlay) want() map[string]string {
	want := map[string]string{
		"/edited": "mine\n", "/theirs": "theirs\n", "/both": "theirs\n", "/dropped-edited": "mine\n", "/deleted-theirs": "theirs\n",
		"/new of theirs": "theirs\n", "/my new file": "mine\n", "/a/b/c.md": "deep\n", "/empty": "",
	}
	for i := range 30 {
		if i != 7 {
			want[fmt.Sprintf("/many/%02d.md", i)] = fmt.Sprint(i)
		}
	}
	return want
}

func (p *memoryPlay) check(t *testing.T) {
	t.Helper()
	if got := p.store.All(); !maps.Equal(got, p.want()) {
		t.Errorf("the store has %q", got)
	}
	for _, r := range p.plane.Requests("") {
		if r.Store != "" && r.Credential == workertest.EnvironmentKey {
			t.Errorf("the environment's key was tried on %s", r.Route)
		}
	}
}

// worker starts ours on a state directory.
func (p *memoryPlay) worker(t *testing.T, state string, more ...string) *testenv.Process {
	return testenv.Run(t, []string{"ANTHROPIC_BASE_URL=" + p.plane.URL, "ANTHROPIC_ENVIRONMENT_ID=" + workertest.EnvironmentID, "ANTHROPIC_ENVIRONMENT_KEY=" + workertest.EnvironmentKey},
		append([]string{"worker", "poll", "--state-dir", state, "--sandbox", "namespaces", "--max-idle", "20ms", "--poll-pace", "eager", "--log-format", "json"}, more...)...)
}

// TestMemoryAsTheOfficialWorker: the official worker and ours leave the same in
// a store.
func TestMemoryAsTheOfficialWorker(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(*testing.T, *memoryPlay){
		"official": func(t *testing.T, p *memoryPlay) {
			dir := t.TempDir()
			officials(&atWorkertest{t: t, plane: p.plane})(t, func(string) string { return dir })
		},
		"ours": func(t *testing.T, p *memoryPlay) { p.worker(t, t.TempDir()) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newMemoryPlay(t, filepath.Join(t.TempDir(), "notes"))
			start(t, p)
			p.meddle(t)
			p.finish(t)
			p.check(t)
		})
	}
}

// TestMemoryOfAReplacedWorker: a worker that downloads a store while a call
// waits for it makes way at once, and the next one goes on.
func TestMemoryOfAReplacedWorker(t *testing.T) {
	t.Parallel()
	p := newMemoryPlay(t, "/mnt/memory/notes")
	p.plane.SetTTL(16 * time.Second) // at whose half the next worker goes on
	p.plane.Inject(workertest.Fault{Route: workertest.ListMemories, Times: 1, Delay: time.Hour})
	state := t.TempDir()
	first := p.worker(t, state)
	p.plane.Wait(t, "the download", testenv.Patience, func() bool {
		_, err := os.Stat(filepath.Join(state, "sandboxes", p.session.ID, "tree/mnt/memory/notes/.anthropic-memory-store"))
		return err == nil
	})
	p.worker(t, state, "--replace")
	if code := first.Wait(); code != 0 {
		t.Errorf("the replaced worker ended with %d", code)
	}
	p.meddle(t)
	p.finish(t)
	p.check(t)
	if n := len(p.plane.Requests(workertest.Ack)); n != 1 {
		t.Errorf("the item was acked %d times", n)
	}
}

// TestMemoryOfAKilledWorker: a worker that is killed leaves what it has not
// uploaded to the next one, which downloads nothing anew.
func TestMemoryOfAKilledWorker(t *testing.T) {
	t.Parallel()
	p := newMemoryPlay(t, "/mnt/memory/notes")
	p.plane.SetTTL(16 * time.Second) // at whose half the next worker goes on
	state := t.TempDir()
	first := p.worker(t, state)
	p.meddle(t)
	first.Kill()
	full := func() (n int) {
		for _, r := range p.plane.Requests(workertest.ListMemories) {
			if strings.Contains(r.Query, "view=full") {
				n++
			}
		}
		return n
	}
	downloads := full()
	next := p.worker(t, state)
	p.finish(t)
	p.check(t)
	if again := full() - downloads; again > 0 {
		t.Errorf("%d pages were downloaded again", again)
	}
	if a := p.session.Answers()[1]; !strings.Contains(a.Text, `"both": was changed here and in the store`) {
		t.Errorf("the session was told %q", a.Text)
	}
	for _, log := range []string{first.Log(), next.Log()} {
		if strings.Contains(log, "sk-test") {
			t.Errorf("the log has a credential: %s", log)
		}
	}
	if left, err := filepath.Glob(filepath.Join(state, "sandboxes", p.session.ID, "memory-*.json")); err != nil || len(left) != 1 {
		t.Errorf("kept %v, %v", left, err)
	}
}
