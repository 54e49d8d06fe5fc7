package httpapi

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/store/storetest"
)

// Updates that arrive at once all happen, one version each; those that expect
// a version happen once.
func TestConcurrentUpdates(t *testing.T) {
	storetest.Each(t, func(t *testing.T, st store.Store) {
		w := newWorld(t, st)
		agent, env := w.agent(), w.environment("e")
		const n = 8
		each := func(f func(i int) reply) (statuses []int) {
			statuses = make([]int, n)
			var all sync.WaitGroup
			for i := range n {
				all.Go(func() { statuses[i] = f(i).status })
			}
			all.Wait()
			slices.Sort(statuses)
			return statuses
		}
		got := each(func(i int) reply {
			return w.do(w.key, "POST", "/v1/agents/"+agent.ID, map[string]any{"metadata": map[string]any{fmt.Sprint("k", i): "v"}})
		})
		if fmt.Sprint(got) != "[200 200 200 200 200 200 200 200]" {
			t.Errorf("unconditional updates: %v", got)
		}
		w.ok("GET", "/v1/agents/"+agent.ID, nil, &agent)
		if agent.Version != n+1 || len(agent.Metadata) != n {
			t.Errorf("version %d with %v", agent.Version, agent.Metadata)
		}
		got = each(func(i int) reply {
			return w.do(w.key, "POST", "/v1/agents/"+agent.ID, map[string]any{"version": n + 1, "name": fmt.Sprint("n", i)})
		})
		if fmt.Sprint(got) != "[200 409 409 409 409 409 409 409]" {
			t.Errorf("updates of version %d: %v", n+1, got)
		}
		got = each(func(i int) reply {
			return w.do(w.key, "POST", "/v1/environments/"+env.ID, map[string]any{"metadata": map[string]any{fmt.Sprint("k", i): "v"}})
		})
		w.ok("GET", "/v1/environments/"+env.ID, nil, &env)
		if got[n-1] != 200 || len(env.Metadata) != n {
			t.Errorf("environment updates: %v left %v", got, env.Metadata)
		}
	})
}
