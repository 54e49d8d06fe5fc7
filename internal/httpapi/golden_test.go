package httpapi

import (
	"encoding/json"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/store/storetest"
)

// goldenFrames are the frames of api's golden stream.
func goldenFrames(t *testing.T) (all []frame) {
	t.Helper()
	text, err := os.ReadFile("../../api/testdata/events.sse")
	if err != nil {
		t.Fatal(err)
	}
	for part := range strings.SplitSeq(strings.TrimSpace(string(text)), "\n\n") {
		name, data, ok := strings.Cut(part, "\ndata: ")
		if !ok {
			t.Fatalf("no frame: %q", part)
		}
		all = append(all, frame{event: strings.TrimPrefix(name, "event: "), data: []byte(data)})
	}
	return all
}

var ownHead = regexp.MustCompile(`^\{"id":"[^"]*",("type":"[^"]*"),"processed_at":(null|"[^"]*")`)

// headless is an event without the id and the time that the server gave it.
func headless(data []byte) string { return ownHead.ReplaceAllString(string(data), `{$1`) }

// same compares what was sent with a golden frame.
func same(t *testing.T, got []frame, golden frame) {
	t.Helper()
	if len(got) != 1 || got[0].event != golden.event || headless(got[0].data) != headless(golden.data) {
		t.Errorf("sent as %s\nwant %s", got, golden)
	}
}

// What is in the log goes out, on streams and in lists and on both stores, byte
// by byte as the golden files have it, by which clients are tested: every type,
// also those that nobody writes yet.
func TestGoldenEventsGoOut(t *testing.T) {
	golden := goldenFrames(t)
	storetest.Each(t, func(t *testing.T, st store.Store) {
		w := newWorld(t, st)
		env, agent := w.environment("e").ID, w.agent().ID
		write := func(session string, f frame) {
			e, err := api.DecodeEvent(f.data)
			if err != nil {
				t.Fatal(err)
			}
			if f.event == api.TypeEventStart || f.event == api.TypeEventDelta {
				w.events.Preview(session, 0, e)
				return
			}
			e.Head().ID = "" // for a new one: the golden ones have all the same
			err = st.Update(t.Context(), func(tx store.Tx) error {
				row, err := tx.LockSession(session)
				if err != nil {
					return err
				}
				if _, err := w.events.Append(tx, &row, e); err != nil {
					return err
				}
				return tx.UpdateSession(row)
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		open := func() (string, *listener) {
			id := w.session(env, agent, "").ID
			return id, w.listen(w.key, "/v1/sessions/"+id+"/events/stream?event_deltas[]=agent.message&event_deltas[]=agent.thinking")
		}
		session, live := open()
		var stored, previews []frame
		for _, f := range golden {
			switch f.event {
			case api.TypeEventStart:
				previews = append([]frame{f}, previews...) // it begins before it goes on
			case api.TypeEventDelta:
				previews = append(previews, f)
			case api.TypeSessionDeleted: // below
			case api.TypeSessionStatusTerminated:
				over, tail := open()
				write(over, f)
				same(t, tail.ended(t), f)
			default:
				stored = append(stored, f)
			}
		}
		for _, f := range append(slices.Clone(stored), previews...) {
			write(session, f)
			same(t, live.until(t, f.event), f)
		}
		var page struct{ Data []json.RawMessage }
		w.ok("GET", "/v1/sessions/"+session+"/events", nil, &page)
		if len(page.Data) != len(stored) {
			t.Fatalf("%d events are listed, want %d", len(page.Data), len(stored))
		}
		for i, f := range stored {
			same(t, []frame{{event: f.event, data: page.Data[i]}}, f)
		}
		w.ok("DELETE", "/v1/sessions/"+session, nil, nil)
		same(t, live.ended(t), golden[slices.IndexFunc(golden, func(f frame) bool { return f.event == api.TypeSessionDeleted })])
	})
}

// shape is the paths of all members of a JSON value, without those of members
// that differ from one object to the next.
func shape(v any, at string) map[string]bool {
	paths := map[string]bool{at: true}
	switch v := v.(type) {
	case map[string]any:
		for name, member := range v {
			if name == "metadata" || name == "tools" || name == "capabilities" {
				member = nil
			}
			maps.Copy(paths, shape(member, at+"/"+name))
		}
	case []any:
		for _, one := range v {
			if _, ok := one.(map[string]any); ok {
				maps.Copy(paths, shape(one, at+"/0"))
			}
		}
	}
	return paths
}

// What is answered has the members of the golden objects, no more and no fewer.
func TestGoldenObjectsAreAnswered(t *testing.T) {
	w := newWorld(t, storetest.SQLite(t))
	env, agent := w.environment("e"), w.agent()
	other := w.environment("other")
	worker := w.environmentKey(env.ID)
	sess := w.session(env.ID, agent.ID, "")
	var threads api.Page[api.SessionThread]
	w.ok("GET", "/v1/sessions/"+sess.ID+"/threads", nil, &threads)
	var items api.Page[api.Work]
	work := "/v1/environments/" + env.ID + "/work"
	w.ok("GET", work, nil, &items)
	item := work + "/" + items.Data[0].ID
	for _, call := range []struct{ golden, cred, method, path string }{
		{"environment_bare", w.key, "GET", "/v1/environments/" + env.ID},
		{"agent_bare", w.key, "GET", "/v1/agents/" + agent.ID},
		{"session_bare", w.key, "GET", "/v1/sessions/" + sess.ID},
		{"session_thread_primary", w.key, "GET", "/v1/sessions/" + sess.ID + "/threads/" + threads.Data[0].ID},
		{"model", w.key, "GET", "/v1/models/scripted"},
		{"page_last", w.key, "GET", "/v1/sessions/" + sess.ID + "/events"},
		{"page_ids", w.key, "GET", "/v1/models"},
		{"page_two_way_only", w.key, "GET", "/v1/sessions?deployment_id=depl_01a"},
		{"work_queued", w.key, "GET", item},
		{"work", worker, "GET", work + "/poll?block_ms=999"},
		{"work", worker, "POST", item + "/ack"},
		{"error", worker, "POST", item + "/heartbeat?expected_last_heartbeat=never"},
		{"heartbeat", worker, "POST", item + "/heartbeat?expected_last_heartbeat=NO_HEARTBEAT"},
		{"work", worker, "POST", item + "/stop"},
		{"work_stats", worker, "GET", work + "/stats"},
		{"session_deleted", w.key, "DELETE", "/v1/sessions/" + sess.ID},
		{"environment_deleted", w.key, "DELETE", "/v1/environments/" + other.ID},
	} {
		text, err := os.ReadFile("../../api/testdata/objects/" + call.golden + ".json")
		if err != nil {
			t.Fatal(err)
		}
		var want, got any
		if err := json.Unmarshal(text, &want); err != nil {
			t.Fatal(err)
		}
		r := w.do(call.cred, call.method, call.path, nil)
		r.json(t, &got)
		wants, has := shape(want, ""), shape(got, "")
		for path := range wants {
			if !has[path] {
				t.Errorf("%s %s: no %s in %s", call.method, call.path, path, r.body)
			}
		}
		for path := range has {
			if !wants[path] {
				t.Errorf("%s %s: %s is not in the golden %s", call.method, call.path, path, call.golden)
			}
		}
	}
}
