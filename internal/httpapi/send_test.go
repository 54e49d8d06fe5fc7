package httpapi

import (
	"net/http"
	"strings"
	"testing"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/store/storetest"
)

func TestIdempotencyKey(t *testing.T) {
	storetest.Each(t, func(t *testing.T, st store.Store) {
		w := newWorld(t, st)
		s := w.session(w.environment("lab").ID, w.agent().ID, "")
		send := func(key, text string) reply {
			body := `{"events":[{"type":"user.message","content":[{"type":"text","text":"` + text + `"}]}]}`
			req, err := http.NewRequest("POST", w.url+"/v1/sessions/"+s.ID+"/events", strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("x-api-key", w.key)
			req.Header.Set("Idempotency-Key", key)
			return w.send(req)
		}
		first, again := send("a", "one"), send("a", "one")
		if first.status != 200 || again.status != 200 {
			t.Fatalf("%d %s, then %d %s", first.status, first.body, again.status, again.body)
		}
		var a, b api.SentEvents
		first.json(t, &a)
		again.json(t, &b)
		if len(a.Data) != 1 || a.Data[0].Head().ID != b.Data[0].Head().ID {
			t.Errorf("%s, then %s", first.body, again.body)
		}
		for name, r := range map[string]reply{"other events": send("a", "two"), "a long key": send(strings.Repeat("k", 256), "x"), "a space": send("a b", "x"), "not ASCII": send("ä", "x")} {
			if r.status != 400 || !strings.Contains(string(r.body), "Idempotency-Key") {
				t.Errorf("%s: %d %s", name, r.status, r.body)
			}
		}
		if r := send("b", "one"); r.status != 200 {
			t.Errorf("another key: %d %s", r.status, r.body)
		}
	})
}
