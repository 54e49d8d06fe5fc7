package storetest

import (
	"strconv"
	"testing"

	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
)

func testKeys(t *testing.T, st store.Store) {
	world(t, st)
	api := plane.Key{ID: "aaaaaaaa", Kind: plane.KeyAPI, Name: "mine", Hash: [32]byte{1, 2, 3}, CreatedAt: at(0)}
	env1 := plane.Key{ID: "bbbbbbbb", Kind: plane.KeyEnvironment, EnvironmentID: "env_1", Name: "worker", Hash: [32]byte{4}, CreatedAt: at(2)}
	env2 := plane.Key{ID: "cccccccc", Kind: plane.KeyEnvironment, EnvironmentID: "env_1", Hash: [32]byte{5}, CreatedAt: at(1)}
	update(t, st, func(tx store.Tx) error {
		for _, k := range []plane.Key{api, env1, env2} {
			if err := tx.InsertKey(k); err != nil {
				return err
			}
		}
		return nil
	})
	same(t, "API keys", see(t, st, func(r store.Reader) ([]plane.Key, error) { return r.Keys("") }), []plane.Key{api})
	same(t, "environment's keys, oldest first", see(t, st, func(r store.Reader) ([]plane.Key, error) { return r.Keys("env_1") }), []plane.Key{env2, env1})

	env1.LastUsedAt, env1.RevokedAt, env1.Name = ptr(at(5)), ptr(at(6)), "gone"
	update(t, st, func(tx store.Tx) error { return tx.UpdateKey(env1) })
	same(t, "changed key", see(t, st, func(r store.Reader) (plane.Key, error) { return r.Key("bbbbbbbb") }), env1)

	wantKind(t, "key of an unknown environment", st.Update(t.Context(), func(tx store.Tx) error {
		return tx.InsertKey(plane.Key{ID: "dddddddd", Kind: plane.KeyEnvironment, EnvironmentID: "env_none", CreatedAt: at(0)})
	}), plane.NotFound)
	wantKind(t, "key twice", st.Update(t.Context(), func(tx store.Tx) error { return tx.InsertKey(api) }), plane.Conflict)
}

func testEnvironments(t *testing.T, st store.Store) {
	var all []plane.Environment
	for i := range 5 {
		e := Environment("env_"+strconv.Itoa(i), "name "+strconv.Itoa(i), at(i))
		if i == 2 {
			e.ArchivedAt = ptr(at(9))
		}
		all = append(all, e)
	}
	update(t, st, func(tx store.Tx) error {
		for _, e := range all {
			if err := tx.InsertEnvironment(e); err != nil {
				return err
			}
		}
		return nil
	})
	same(t, "by id", see(t, st, func(r store.Reader) (plane.Environment, error) { return r.Environment("env_2") }), all[2])
	same(t, "by name", see(t, st, func(r store.Reader) (plane.Environment, error) { return r.EnvironmentNamed("name 3") }), all[3])

	id := func(e plane.Environment) string { return e.ID }
	view(t, st, func(r store.Reader) error {
		pages(t, id, func(w store.Window) ([]plane.Environment, error) { return r.Environments(true, w) }, false,
			[]string{"env_4", "env_3", "env_2", "env_1", "env_0"})
		pages(t, id, func(w store.Window) ([]plane.Environment, error) { return r.Environments(false, w) }, true,
			[]string{"env_0", "env_1", "env_3", "env_4"})
		return nil
	})

	wantKind(t, "name taken", st.Update(t.Context(), func(tx store.Tx) error {
		return tx.InsertEnvironment(Environment("env_9", "name 1", at(9)))
	}), plane.Conflict)
	renamed := all[1]
	renamed.Name = "name 0"
	wantKind(t, "renamed to a name taken", st.Update(t.Context(), func(tx store.Tx) error { return tx.UpdateEnvironment(renamed) }), plane.Conflict)
	renamed.Name, renamed.Metadata = "new", nil
	update(t, st, func(tx store.Tx) error { return tx.UpdateEnvironment(renamed) })
	same(t, "renamed", see(t, st, func(r store.Reader) (plane.Environment, error) { return r.EnvironmentNamed("new") }), renamed)
}

func testEnvironmentDelete(t *testing.T, st store.Store) {
	world(t, st, "sesn_1")
	update(t, st, func(tx store.Tx) error {
		if err := tx.InsertKey(plane.Key{ID: "aaaaaaaa", Kind: plane.KeyEnvironment, EnvironmentID: "env_1", CreatedAt: at(0)}); err != nil {
			return err
		}
		return tx.InsertWork(item("work_1", "sesn_1", 0))
	})
	wantKind(t, "delete with a live session", st.Update(t.Context(), func(tx store.Tx) error { return tx.DeleteEnvironment("env_1") }), plane.Conflict)
	update(t, st, func(tx store.Tx) error {
		s, err := tx.LockSession("sesn_1")
		if err != nil {
			return err
		}
		s.ArchivedAt = ptr(at(3))
		return tx.UpdateSession(s)
	})
	update(t, st, func(tx store.Tx) error { return tx.DeleteEnvironment("env_1") })
	view(t, st, func(r store.Reader) error {
		_, err := r.Environment("env_1")
		wantKind(t, "environment", err, plane.NotFound)
		_, err = r.Key("aaaaaaaa")
		wantKind(t, "its key", err, plane.NotFound)
		_, err = r.Session("sesn_1")
		wantKind(t, "its session", err, plane.NotFound)
		_, err = r.Work("work_1")
		wantKind(t, "its item", err, plane.NotFound)
		return nil
	})
}

func testAgents(t *testing.T, st store.Store) {
	put := func(a plane.AgentVersion) {
		t.Helper()
		update(t, st, func(tx store.Tx) error { return tx.InsertAgentVersion(a) })
	}
	for i := range 4 {
		put(Agent("agent_"+strconv.Itoa(i), 1, at(i)))
	}
	second := Agent("agent_1", 2, at(1))
	second.Name = "better"
	put(second)
	for v := 3; v <= 11; v++ {
		put(Agent("agent_1", v, at(1)))
	}
	wantKind(t, "version twice", st.Update(t.Context(), func(tx store.Tx) error { return tx.InsertAgentVersion(second) }), plane.Conflict)
	wantKind(t, "second version of nothing", st.Update(t.Context(), func(tx store.Tx) error {
		return tx.InsertAgentVersion(Agent("agent_none", 2, at(1)))
	}), plane.NotFound)

	view(t, st, func(r store.Reader) error {
		latest, err := r.Agent("agent_1", 0)
		if err != nil {
			return err
		}
		same(t, "latest", latest, Agent("agent_1", 11, at(1)))
		v2, err := r.Agent("agent_1", 2)
		if err != nil {
			return err
		}
		same(t, "second", v2, second)
		_, err = r.Agent("agent_1", 12)
		wantKind(t, "version to come", err, plane.NotFound)

		pages(t, func(a plane.AgentVersion) string { return strconv.Itoa(a.Version) },
			func(w store.Window) ([]plane.AgentVersion, error) { return r.AgentVersions("agent_1", w) }, false,
			[]string{"11", "10", "9", "8", "7", "6", "5", "4", "3", "2", "1"})
		_, err = r.AgentVersions("agent_1", store.Window{After: "x"})
		wantKind(t, "cursor of another list", err, plane.Invalid)
		return nil
	})

	gone := Agent("agent_2", 1, at(2))
	gone.ArchivedAt = ptr(at(8))
	update(t, st, func(tx store.Tx) error { return tx.UpdateAgent(gone) })
	id := func(a plane.AgentVersion) string { return a.ID }
	view(t, st, func(r store.Reader) error {
		for _, c := range []struct {
			f    store.AgentFilter
			want []string
		}{
			{store.AgentFilter{}, []string{"agent_3", "agent_1", "agent_0"}},
			{store.AgentFilter{IncludeArchived: true}, []string{"agent_3", "agent_2", "agent_1", "agent_0"}},
			{store.AgentFilter{CreatedGTE: at(1)}, []string{"agent_3", "agent_1"}},
			{store.AgentFilter{CreatedLTE: at(1)}, []string{"agent_1", "agent_0"}},
		} {
			pages(t, id, func(w store.Window) ([]plane.AgentVersion, error) { return r.Agents(c.f, w) }, false, c.want)
		}
		return nil
	})
}

func testSettings(t *testing.T, st store.Store) {
	read := func(r store.Reader) (string, error) { return r.Setting("installation") }
	same(t, "unset", see(t, st, read), "")
	for _, v := range []string{"one", "two"} {
		update(t, st, func(tx store.Tx) error { return tx.SetSetting("installation", v) })
		same(t, "set", see(t, st, read), v)
	}
}

func testNotFound(t *testing.T, st store.Store) {
	world(t, st, "sesn_1")
	view(t, st, func(r store.Reader) error {
		for what, read := range map[string]func() error{
			"key":               func() error { _, err := r.Key("x"); return err },
			"environment":       func() error { _, err := r.Environment("x"); return err },
			"environment named": func() error { _, err := r.EnvironmentNamed("x"); return err },
			"agent":             func() error { _, err := r.Agent("x", 0); return err },
			"session":           func() error { _, err := r.Session("x"); return err },
			"event":             func() error { _, err := r.Event("sesn_1", "x"); return err },
			"call":              func() error { _, err := r.Call("sesn_1", "x"); return err },
			"work":              func() error { _, err := r.Work("x"); return err },
			"work by no token":  func() error { _, err := r.WorkByToken(""); return err },
			"live work":         func() error { _, err := r.LiveWork("sesn_1"); return err },
			"last work":         func() error { _, err := r.LastWork("sesn_1"); return err },
		} {
			wantKind(t, what, read(), plane.NotFound)
		}
		return nil
	})
	for what, write := range map[string]func(store.Tx) error{
		"lock session":         func(tx store.Tx) error { _, err := tx.LockSession("x"); return err },
		"lock work":            func(tx store.Tx) error { _, err := tx.LockWork("x"); return err },
		"lock work and calls":  func(tx store.Tx) error { _, _, err := tx.LockWorkCalls("x"); return err },
		"claim":                func(tx store.Tx) error { _, err := tx.ClaimWork(store.Claim{Environment: "env_1"}); return err },
		"update key":           func(tx store.Tx) error { return tx.UpdateKey(plane.Key{ID: "x"}) },
		"update environment":   func(tx store.Tx) error { return tx.UpdateEnvironment(Environment("x", "x", at(0))) },
		"delete environment":   func(tx store.Tx) error { return tx.DeleteEnvironment("x") },
		"update agent":         func(tx store.Tx) error { return tx.UpdateAgent(Agent("x", 1, at(0))) },
		"update session":       func(tx store.Tx) error { return tx.UpdateSession(Session("x", "env_1", at(0))) },
		"delete session":       func(tx store.Tx) error { return tx.DeleteSession("x") },
		"update event":         func(tx store.Tx) error { return tx.UpdateEvent(event("sesn_1", "x", 1)) },
		"update call":          func(tx store.Tx) error { return tx.UpdateCall(plane.Call{SessionID: "sesn_1", ID: "x"}) },
		"update work":          func(tx store.Tx) error { return tx.UpdateWork(item("x", "sesn_1", 0)) },
		"session of nowhere":   func(tx store.Tx) error { return tx.InsertSession(Session("sesn_2", "x", at(0))) },
		"event of no session":  func(tx store.Tx) error { return tx.InsertEvents(event("x", "sevt_1", 1)) },
		"replay of no session": func(tx store.Tx) error { return tx.InsertReplay(plane.Replay{SessionID: "x", Pos: 1}) },
	} {
		wantKind(t, what, st.Update(t.Context(), write), plane.NotFound)
	}
}

// Text that PostgreSQL cannot keep is refused alike, and is never found.
func testHostileText(t *testing.T, st store.Store) {
	world(t, st, "sesn_1")
	for _, bad := range []string{"a\x00b", "a\xffb"} {
		wantKind(t, "stored", st.Update(t.Context(), func(tx store.Tx) error { return tx.SetSetting("x", bad) }), plane.Invalid)
		wantKind(t, "in company", st.Update(t.Context(), func(tx store.Tx) error {
			if err := tx.SetSetting("good", "1"); err != nil {
				return err
			}
			return tx.InsertEnvironment(Environment("env_2", bad, at(0)))
		}), plane.Invalid)
		view(t, st, func(r store.Reader) error {
			_, err := r.Session(bad)
			wantKind(t, "looked up", err, plane.NotFound)
			rows, err := r.Sessions(store.SessionFilter{EnvironmentID: bad}, store.Window{})
			if err != nil || len(rows) != 0 {
				t.Errorf("filter: %d rows, %v", len(rows), err)
			}
			_, err = r.Session("sesn_1")
			return err // the view goes on
		})
	}
	same(t, "nothing stored", see(t, st, func(r store.Reader) (string, error) { return r.Setting("good") }), "")
}
