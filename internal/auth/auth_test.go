package auth

import (
	"context"
	"crypto/sha256"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/store/storetest"
)

func each(t *testing.T, f func(t *testing.T, k *Keys, st store.Store)) {
	storetest.Each(t, func(t *testing.T, st store.Store) {
		update(t, st, func(tx store.Tx) error {
			return tx.InsertEnvironment(storetest.Environment("env_1", "one", time.Now().UTC()))
		})
		f(t, New(st), st)
	})
}

func update(t *testing.T, st store.Store, fn func(store.Tx) error) {
	t.Helper()
	if err := st.Update(t.Context(), fn); err != nil {
		t.Fatal(err)
	}
}

func TestKeysLookAsTheyShould(t *testing.T) {
	for prefix, make := range map[string]func() string{
		PrefixAPI:         func() string { s, _, _ := newSecret(PrefixAPI); return s },
		PrefixEnvironment: func() string { s, _, _ := newSecret(PrefixEnvironment); return s },
		PrefixSessions:    func() string { s, _ := NewToken(NewTokenID()); return s },
	} {
		shape := regexp.MustCompile("^" + prefix + "[0-9A-Za-z]{51}$")
		seen := map[string]bool{}
		for range 100 {
			s := make()
			if !shape.MatchString(s) || seen[s] {
				t.Fatalf("%q is misshapen or repeated", s)
			}
			seen[s] = true
		}
	}
	id := NewTokenID()
	token, hash := NewToken(id)
	if !strings.HasPrefix(token, PrefixSessions+id) || hash != sha256.Sum256([]byte(token)) {
		t.Error("a token's id and hash are not its own")
	}
}

func TestCreateCheckRevoke(t *testing.T) {
	each(t, func(t *testing.T, k *Keys, st store.Store) {
		ctx := t.Context()
		apiSecret, apiKey, err := k.Create(ctx, plane.KeyAPI, "", "main")
		if err != nil {
			t.Fatal(err)
		}
		envSecret, envKey, err := k.Create(ctx, plane.KeyEnvironment, "env_1", "worker")
		if err != nil {
			t.Fatal(err)
		}
		if who, err := k.Check(ctx, apiSecret); err != nil || who != (Identity{Kind: plane.CallerAPI, KeyID: apiKey.ID, Standing: plane.Live}) {
			t.Errorf("API key: %+v %v", who, err)
		}
		if who, err := k.Check(ctx, envSecret); err != nil || who != (Identity{Kind: plane.CallerEnvironment, KeyID: envKey.ID, EnvironmentID: "env_1", Standing: plane.Live}) {
			t.Errorf("environment key: %+v %v", who, err)
		}
		flip := func(s string) string {
			last := byte('0')
			if s[len(s)-1] == '0' {
				last = '1'
			}
			return s[:len(s)-1] + string(last)
		}
		other, _, _ := newSecret(PrefixAPI)
		for name, presented := range map[string]string{
			"empty":              "",
			"foreign":            "sk-ant-api03-abc",
			"right id, wrong":    flip(apiSecret),
			"too long":           apiSecret + "0",
			"too short":          apiSecret[:len(apiSecret)-1],
			"not base62":         apiSecret[:len(apiSecret)-1] + "-",
			"unknown":            other,
			"as another kind":    PrefixEnvironment + strings.TrimPrefix(apiSecret, PrefixAPI),
			"env key as API key": PrefixAPI + strings.TrimPrefix(envSecret, PrefixEnvironment),
			"as a token":         PrefixSessions + strings.TrimPrefix(apiSecret, PrefixAPI),
			"huge":               PrefixAPI + strings.Repeat("0", 1<<20),
		} {
			if who, err := k.Check(ctx, presented); plane.KindOf(err) != plane.Unauthenticated || err == nil || who != (Identity{}) {
				t.Errorf("%s: %+v %v", name, who, err)
			} else if len(presented) > 20 && strings.Contains(err.Error(), presented) {
				t.Errorf("%s: the credential stands in the error", name)
			}
		}

		keys, err := k.List(ctx, "env_1")
		if err != nil || len(keys) != 1 || keys[0].Name != "worker" || keys[0].Hash != sha256.Sum256([]byte(envSecret)) {
			t.Fatalf("list: %+v %v", keys, err)
		}
		if _, err := k.Revoke(ctx, envKey.ID); err != nil {
			t.Fatal(err)
		}
		if _, err := k.Check(ctx, envSecret); plane.KindOf(err) != plane.Unauthenticated || err == nil {
			t.Errorf("a revoked key passes: %v", err)
		}
		again, err := k.Revoke(ctx, envKey.ID)
		if err != nil || again.RevokedAt == nil {
			t.Errorf("revoked twice: %+v %v", again, err)
		}
		if _, err := k.Revoke(ctx, "nokey123"); plane.KindOf(err) != plane.NotFound || err == nil {
			t.Errorf("revoke an unknown key: %v", err)
		}
		// A use written late does not bring a revoked key back.
		update(t, st, func(tx store.Tx) error {
			used := time.Now().UTC()
			envKey.LastUsedAt, envKey.RevokedAt = &used, nil
			return tx.UpdateKey(envKey)
		})
		if _, err := k.Check(ctx, envSecret); plane.KindOf(err) != plane.Unauthenticated || err == nil {
			t.Errorf("a late write un-revoked the key: %v", err)
		}
		if _, err := k.Check(ctx, apiSecret); err != nil {
			t.Errorf("another key was harmed: %v", err)
		}
	})
}

func TestCreateRefuses(t *testing.T) {
	k := New(storetest.SQLite(t))
	for name, c := range map[string]struct {
		kind      plane.KeyKind
		env, name string
		want      plane.Kind
	}{
		"unknown kind":          {"root", "", "", plane.Invalid},
		"env key without env":   {plane.KeyEnvironment, "", "", plane.Invalid},
		"API key with env":      {plane.KeyAPI, "env_1", "", plane.Invalid},
		"long name":             {plane.KeyAPI, "", strings.Repeat("n", 257), plane.Invalid},
		"environment not there": {plane.KeyEnvironment, "env_none", "", plane.NotFound},
	} {
		if secret, _, err := k.Create(t.Context(), c.kind, c.env, c.name); err == nil || plane.KindOf(err) != c.want || secret != "" {
			t.Errorf("%s: %q %v", name, secret, err)
		}
	}
}

func TestLastUsedIsWrittenOnceAMinute(t *testing.T) {
	each(t, func(t *testing.T, k *Keys, st store.Store) {
		now := time.Now().UTC().Truncate(time.Microsecond)
		k.now = func() time.Time { return now }
		secret, key, err := k.Create(t.Context(), plane.KeyAPI, "", "")
		if err != nil {
			t.Fatal(err)
		}
		used := func() *time.Time {
			var got plane.Key
			if err := st.View(t.Context(), func(r store.Reader) (err error) { got, err = r.Key(key.ID); return err }); err != nil {
				t.Fatal(err)
			}
			return got.LastUsedAt
		}
		round := func() { // Stop writes what Check noted
			k.Start()
			k.Start()
			if _, err := k.Check(t.Context(), secret); err != nil {
				t.Fatal(err)
			}
			k.Stop()
			k.Stop()
		}
		first := now
		if round(); used() == nil || !used().Equal(first) {
			t.Fatalf("first use: %v", used())
		}
		now = now.Add(59 * time.Second)
		if round(); !used().Equal(first) {
			t.Errorf("written within the minute: %v", used())
		}
		now = now.Add(2 * time.Second)
		if round(); !used().Equal(now) {
			t.Errorf("not written after the minute: %v", used())
		}
	})
}

// What a sessions token may do follows from its item alone.
func TestTokenStanding(t *testing.T) {
	now := time.Date(2026, 11, 23, 22, 0, 0, 0, time.UTC)
	ago := func(d time.Duration) *time.Time { at := now.Add(-d); return &at }
	for name, c := range map[string]struct {
		item plane.WorkItem
		want plane.Standing
	}{
		"delivered":               {plane.WorkItem{State: api.WorkQueued}, plane.Live},
		"starting":                {plane.WorkItem{State: api.WorkStarting, LeaseUntil: now.Add(1)}, plane.Live},
		"active":                  {plane.WorkItem{State: api.WorkActive, LeaseUntil: now.Add(1)}, plane.Live},
		"stopping":                {plane.WorkItem{State: api.WorkStopping, LeaseUntil: now.Add(1), EndedBy: plane.EndedOperator}, plane.Live},
		"lapsed, nobody noticed":  {plane.WorkItem{State: api.WorkActive, LeaseUntil: now}, plane.Dead},
		"startup lapsed":          {plane.WorkItem{State: api.WorkStarting, LeaseUntil: now}, plane.Dead},
		"stopping and lapsed":     {plane.WorkItem{State: api.WorkStopping, LeaseUntil: now}, plane.Dead},
		"session ended":           {plane.WorkItem{State: api.WorkStopping, LeaseUntil: now.Add(1), EndedBy: plane.EndedSession}, plane.Grace},
		"stopped by its holder":   {plane.WorkItem{State: api.WorkStopped, EndedBy: plane.EndedHolder, StoppedAt: ago(plane.TokenGrace - 1)}, plane.Grace},
		"stopped by an operator":  {plane.WorkItem{State: api.WorkStopped, EndedBy: plane.EndedOperator, StoppedAt: ago(time.Second)}, plane.Grace},
		"grace over":              {plane.WorkItem{State: api.WorkStopped, EndedBy: plane.EndedHolder, StoppedAt: ago(plane.TokenGrace)}, plane.Dead},
		"lapse swept":             {plane.WorkItem{State: api.WorkStopped, EndedBy: plane.EndedLapse, StoppedAt: ago(time.Second)}, plane.Dead},
		"superseded":              {plane.WorkItem{State: api.WorkStopped, EndedBy: plane.EndedHolder, StoppedAt: ago(time.Second), SupersededBy: "work_2"}, plane.Dead},
		"reclaimed":               {plane.WorkItem{State: api.WorkStopped, EndedBy: plane.EndedReclaim, StoppedAt: ago(time.Second)}, plane.Dead},
		"stopped, time not known": {plane.WorkItem{State: api.WorkStopped, EndedBy: plane.EndedHolder}, plane.Dead},
	} {
		if got := c.item.TokenStanding(now); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
	for standing, finish := range map[plane.Standing]bool{plane.Live: true, plane.Grace: true, plane.Dead: false, "": false} {
		if who := (Identity{Standing: standing}); who.MayFinish() != finish || who.Live() != (standing == plane.Live) {
			t.Errorf("%q: may finish %v, live %v", standing, who.MayFinish(), who.Live())
		}
	}
}

func TestCheckToken(t *testing.T) {
	each(t, func(t *testing.T, k *Keys, st store.Store) {
		id := NewTokenID()
		token, hash := NewToken(id)
		other, _ := NewToken(NewTokenID())
		now := time.Now().UTC().Truncate(time.Microsecond)
		update(t, st, func(tx store.Tx) error {
			if err := tx.InsertSession(storetest.Session("sesn_1", "env_1", now)); err != nil {
				return err
			}
			return tx.InsertWork(plane.WorkItem{ID: "work_1", EnvironmentID: "env_1", SessionID: "sesn_1", State: api.WorkQueued,
				Metadata: api.Metadata{}, TokenID: id, TokenHash: hash, CreatedAt: now, DeliveredAt: &now})
		})
		want := Identity{Kind: plane.CallerSessions, KeyID: id, EnvironmentID: "env_1", SessionID: "sesn_1", WorkID: "work_1", Standing: plane.Live}
		if who, err := k.Check(context.Background(), token); err != nil || who != want {
			t.Errorf("%+v %v", who, err)
		}
		for _, presented := range []string{other, PrefixSessions + id + other[len(PrefixSessions)+publicLen:]} {
			if who, err := k.Check(t.Context(), presented); plane.KindOf(err) != plane.Unauthenticated || err == nil {
				t.Errorf("%+v %v", who, err)
			}
		}
		update(t, st, func(tx store.Tx) error {
			w, err := tx.LockWork("work_1")
			if err != nil {
				return err
			}
			w.State, w.StoppedAt, w.SupersededBy, w.EndedBy = api.WorkStopped, &now, "work_2", plane.EndedLapse
			return tx.UpdateWork(w)
		})
		if who, err := k.Check(t.Context(), token); err != nil || who.Standing != plane.Dead {
			t.Errorf("superseded: %+v %v", who, err)
		}
	})
}

func TestKindByLooks(t *testing.T) {
	apiKey, _, _ := newSecret(PrefixAPI)
	envKey, _, _ := newSecret(PrefixEnvironment)
	token, _ := NewToken(NewTokenID())
	for presented, want := range map[string]plane.CallerKind{apiKey: plane.CallerAPI, envKey: plane.CallerEnvironment, token: plane.CallerSessions} {
		if got, ok := Kind(presented); !ok || got != want {
			t.Errorf("%s: %s %v", presented[:14], got, ok)
		}
	}
	if _, ok := Kind("Bearer x"); ok {
		t.Error("a stranger's credential has a kind")
	}
}
