package httpapi

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/store/storetest"
)

// ids walks a list from page to page and gives the ids, page by page.
func (w *world) ids(path string) (pages [][]string) {
	w.t.Helper()
	sep := "?"
	if strings.Contains(path, "?") {
		sep = "&"
	}
	for page := ""; ; {
		var p struct {
			Data []struct {
				ID      string `json:"id"`
				Version int    `json:"version"`
			}
			NextPage *string `json:"next_page"`
		}
		at := path
		if page != "" {
			at += sep + "page=" + url.QueryEscape(page)
		}
		w.ok("GET", at, nil, &p)
		var ids []string
		for _, d := range p.Data {
			if strings.Contains(path, "/versions") {
				d.ID = fmt.Sprint(d.Version)
			}
			ids = append(ids, d.ID)
		}
		pages = append(pages, ids)
		if p.NextPage == nil {
			return pages
		}
		if len(ids) == 0 {
			w.t.Fatalf("%s: an empty page with a next one", path)
		}
		page = *p.NextPage
	}
}

func TestPaging(t *testing.T) {
	storetest.Each(t, func(t *testing.T, st store.Store) {
		w := newWorld(t, st)
		agent := w.agent()
		var envs, sessions []string
		for i := range 5 {
			envs = append(envs, w.environment(fmt.Sprint("e", i)).ID)
			sessions = append(sessions, w.session(envs[0], agent.ID, "").ID)
			w.ok("POST", "/v1/agents/"+agent.ID, map[string]any{"description": fmt.Sprint(i)}, nil)
		}
		newest := func(ids []string) []string {
			ids = slices.Clone(ids)
			slices.Reverse(ids)
			return ids
		}
		for _, tc := range []struct {
			path string
			want []string
		}{
			{"/v1/environments", newest(envs)},
			{"/v1/sessions", newest(sessions)},
			{"/v1/sessions?order=asc", sessions},
			{"/v1/sessions?agent_id=" + agent.ID + "&statuses[]=idle&statuses=running", newest(sessions)},
			{"/v1/sessions?statuses[]=running", nil},
			{"/v1/sessions?deployment_id=depl_01a", nil},
			{"/v1/agents/" + agent.ID + "/versions", []string{"6", "5", "4", "3", "2", "1"}},
			{"/v1/sessions?created_at[gt]=2100-01-01T00:00:00Z", nil},
			{"/v1/sessions?created_at[lte]=2100-01-01T00:00:00%2B02:00", newest(sessions)},
		} {
			for _, limit := range []int{1, 2, 5, 100} {
				sep := "?"
				if strings.Contains(tc.path, "?") {
					sep = "&"
				}
				pages := w.ids(fmt.Sprintf("%s%slimit=%d", tc.path, sep, limit))
				if got := slices.Concat(pages...); !slices.Equal(got, tc.want) {
					t.Errorf("%s by %d: %v, want %v", tc.path, limit, got, tc.want)
				}
				if want := max(1, (len(tc.want)+limit-1)/limit); len(pages) != want {
					t.Errorf("%s by %d: %d pages, want %d", tc.path, limit, len(pages), want)
				}
			}
		}
		items := slices.Concat(w.ids("/v1/environments/" + envs[0] + "/work?limit=2")...)
		if len(items) != 5 || !slices.IsSortedFunc(items, func(a, b string) int { return strings.Compare(b, a) }) {
			t.Errorf("work items %v", items)
		}
	})
}

func TestSessionsPageBothWays(t *testing.T) {
	storetest.Each(t, func(t *testing.T, st store.Store) {
		w := newWorld(t, st)
		env, agent := w.environment("e"), w.agent()
		var want []string
		for range 7 {
			want = append(want, w.session(env.ID, agent.ID, "").ID)
		}
		for _, order := range []string{"asc", "desc"} {
			if order == "desc" {
				slices.Reverse(want)
			}
			get := func(page string) (p api.TwoWayPage[api.Session], ids []string) {
				w.ok("GET", "/v1/sessions?limit=3&order="+order+"&page="+page, nil, &p)
				for _, s := range p.Data {
					ids = append(ids, s.ID)
				}
				return p, ids
			}
			first, ids1 := get("")
			if first.PrevPage != nil {
				t.Error("the first page has one before it")
			}
			second, ids2 := get(*first.NextPage)
			third, ids3 := get(*second.NextPage)
			if third.NextPage != nil || !slices.Equal(slices.Concat(ids1, ids2, ids3), want) {
				t.Errorf("%s forward: %v %v %v", order, ids1, ids2, ids3)
			}
			back2, b2 := get(*third.PrevPage)
			back1, b1 := get(*back2.PrevPage)
			if !slices.Equal(b2, ids2) || !slices.Equal(b1, ids1) || back1.PrevPage != nil {
				t.Errorf("%s backward: %v %v", order, b2, b1)
			}
			if _, again := get(*back1.NextPage); !slices.Equal(again, ids2) {
				t.Errorf("%s forward again: %v", order, again)
			}
		}
	})
}

// The list of events: both orders, stable while events arrive, filters, and
// pages that end early when their events are long.
func TestEventPages(t *testing.T) {
	storetest.Each(t, func(t *testing.T, st store.Store) {
		w := newWorld(t, st)
		sess := w.session(w.environment("e").ID, w.agent().ID, "")
		path := "/v1/sessions/" + sess.ID + "/events"
		stream := w.listen(w.key, path+"/stream")
		send := func(text string) {
			w.ok("POST", path, map[string]any{"events": []any{message(text)}}, nil)
			stream.until(t, "session.status_idle")
		}
		send("one")
		send("two")
		all := slices.Concat(w.ids(path)...)
		if len(all) < 10 {
			t.Fatalf("only %d events", len(all))
		}
		for _, limit := range []int{1, 3, 7, 1000} {
			if got := slices.Concat(w.ids(fmt.Sprintf("%s?limit=%d", path, limit))...); !slices.Equal(got, all) {
				t.Errorf("asc by %d: %v", limit, got)
			}
			got := slices.Concat(w.ids(fmt.Sprintf("%s?limit=%d&order=desc", path, limit))...)
			slices.Reverse(got)
			if !slices.Equal(got, all) {
				t.Errorf("desc by %d: %v", limit, got)
			}
		}
		var page api.EventPage
		w.ok("GET", path+"?limit=4", nil, &page)
		send("three") // while somebody is between two pages
		var rest api.EventPage
		w.ok("GET", path+"?page="+*page.NextPage, nil, &rest)
		var got []string
		for _, e := range append(page.Data, rest.Data...) {
			got = append(got, e.Head().ID)
		}
		if !slices.Equal(got[:len(all)], all) || len(got) <= len(all) || rest.NextPage != nil {
			t.Errorf("%d events before, %d with those that came between pages", len(all), len(got))
		}
		if n := len(slices.Concat(w.ids(path + "?types[]=user.message&types=agent.message&limit=2")...)); n != 6 {
			t.Errorf("%d messages of both sides, want 6", n)
		}
		from := page.Data[3].Head().ProcessedAt.Format("2006-01-02T15:04:05.999999Z")
		if n := len(slices.Concat(w.ids(path + "?created_at[lt]=" + from)...)); n != 3 {
			t.Errorf("%d events before the fourth, want 3", n)
		}

		big := strings.Repeat("x", 5<<20)
		for range 6 {
			send(big)
		}
		pages := w.ids(path + "?types[]=user.message")
		if n := len(slices.Concat(pages...)); n != 9 || len(pages) < 2 || len(pages) > 4 {
			t.Errorf("%d events of 5 MiB on %d pages", n, len(pages))
		}
	})
}

func TestModels(t *testing.T) {
	w := newWorld(t, storetest.SQLite(t), func(c *Config) {
		for i := range 5 {
			c.Models.Add(api.Model{ID: fmt.Sprint("m", i), Lifecycle: map[bool]string{true: "retired", false: "active"}[i == 0], CreatedAt: time.Date(2027, 1, i+1, 0, 0, 0, 0, time.UTC)}, nil)
		}
	})
	for query, want := range map[string]string{
		"":                             "[m4 m3 m2 m1 m0 scripted] false",
		"?limit=2":                     "[m4 m3] true",
		"?limit=2&after_id=m3":         "[m2 m1] true",
		"?limit=9&after_id=m1":         "[m0 scripted] false",
		"?limit=2&before_id=m1":        "[m3 m2] true",
		"?limit=3&before_id=m2":        "[m4 m3] false",
		"?lifecycle[]=retired":         "[m0] false",
		"?lifecycle=active&limit=1000": "[m4 m3 m2 m1 scripted] false",
	} {
		var p api.IDPage[api.Model]
		w.ok("GET", "/v1/models"+query, nil, &p)
		var ids []string
		for _, m := range p.Data {
			ids = append(ids, m.ID)
		}
		if got := fmt.Sprint(ids, " ", p.HasMore); got != want {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
		if *p.FirstID != ids[0] || *p.LastID != ids[len(ids)-1] {
			t.Errorf("%s: ends %s %s", query, *p.FirstID, *p.LastID)
		}
	}
	for _, query := range []string{"?after_id=x", "?after_id=m1&before_id=m3", "?limit=1001", "?lifecycle=new"} {
		if r := w.do(w.key, "GET", "/v1/models"+query, nil); r.status != http.StatusBadRequest {
			t.Errorf("%s: %d", query, r.status)
		}
	}
}

// A cursor that is taken is one of ours: written again it is the same.
func FuzzCursor(f *testing.F) {
	f.Add(cursor{"sessions", "desc", true, "sesn_01abc"}.String(), "sessions", "desc")
	f.Add(cursor{"events of sesn_01abc", "asc", false, "17"}.String(), "events of sesn_01abc", "asc")
	f.Add(base64.RawURLEncoding.EncodeToString([]byte("1\nsessions\nasc\nf\n")), "sessions", "asc")
	f.Add("", "", "")
	f.Fuzz(func(t *testing.T, text, list, order string) {
		c, err := parseCursor(text, list, order)
		if err != nil {
			if plane.KindOf(err) != plane.Invalid {
				t.Fatalf("%v is not the client's fault", err)
			}
			return
		}
		if c.list != list || c.order != order || !idText(c.after) {
			t.Errorf("%+v", c)
		}
		if c.String() != text {
			t.Errorf("%q was taken for %q", text, c.String())
		}
	})
}

// An event that waits is listed last. One that gets its place while a client
// reads page by page is on one of the pages all the same.
func TestPagesAmongQueuedEvents(t *testing.T) {
	storetest.Each(t, func(t *testing.T, st store.Store) {
		w := newWorld(t, st)
		s := w.session(w.environment("one").ID, w.agent().ID, "")
		events := "/v1/sessions/" + s.ID + "/events"
		l := w.listen(w.key, events+"/stream")
		send := func(e any) { w.ok("POST", events, map[string]any{"events": []any{e}}, nil) }
		send(message(script))
		l.until(t, api.TypeSessionStatusIdle)
		var calls struct{ Data []struct{ ID string } }
		w.ok("GET", events+"?types[]=agent.tool_use", nil, &calls)
		for i := range 3 {
			send(message(fmt.Sprint("more ", i)))
		}
		all := w.ids(events)[0]
		waiting := all[len(all)-3:]

		seen := map[string]int{}
		at := ""
		for limit := len(all) - 2; ; limit = 2 { // the first page ends with the first that waits
			var page struct {
				Data     []struct{ ID string }
				NextPage *string `json:"next_page"`
			}
			w.ok("GET", fmt.Sprintf("%s?limit=%d%s", events, limit, at), nil, &page)
			for _, e := range page.Data {
				seen[e.ID]++
			}
			if limit > 2 {
				send(map[string]any{"type": "user.tool_result", "tool_use_id": calls.Data[0].ID, "content": []any{map[string]any{"type": "text", "text": "ok"}}})
				l.until(t, api.TypeSessionStatusIdle)
			}
			if page.NextPage == nil {
				break
			}
			at = "&page=" + url.QueryEscape(*page.NextPage)
		}
		for _, id := range waiting {
			if seen[id] == 0 {
				t.Errorf("%s was on no page", id)
			}
		}
		for _, id := range w.ids(events)[0] {
			if seen[id] == 0 || seen[id] > 1 && !slices.Contains(waiting, id) {
				t.Errorf("%s was on %d pages", id, seen[id])
			}
		}
	})
}
