package worker

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/client"
)

// beatServer answers beats as a script says; after it, it extends.
type beatServer struct {
	script []func(expected string) (*api.Heartbeat, error)
	seen   []string        // expected values
	at     []time.Duration // since the first
	began  time.Time
	stored string
	ttl    int
	n      int
}

func (b *beatServer) send(ctx context.Context, expected string) (*api.Heartbeat, error) {
	if b.seen == nil {
		b.began = time.Now()
	}
	b.seen = append(b.seen, expected)
	b.at = append(b.at, time.Since(b.began))
	b.n++
	if b.n <= len(b.script) {
		return b.script[b.n-1](expected)
	}
	return b.extend()
}

func (b *beatServer) extend() (*api.Heartbeat, error) {
	b.stored = time.Now().UTC().Format(time.RFC3339Nano)
	return &api.Heartbeat{LastHeartbeat: b.stored, LeaseExtended: true, State: api.WorkActive, TTLSeconds: b.ttl}, nil
}

func (b *beatServer) answer(state api.WorkState, extended bool) func(string) (*api.Heartbeat, error) {
	return func(string) (*api.Heartbeat, error) {
		return &api.Heartbeat{LastHeartbeat: b.stored, LeaseExtended: extended, State: state, TTLSeconds: b.ttl}, nil
	}
}

func (b *beatServer) status(code int) func(string) (*api.Heartbeat, error) {
	return func(string) (*api.Heartbeat, error) { return nil, &client.Error{Status: code} }
}

// loseAnswer has its effect, and no answer.
func (b *beatServer) loseAnswer(string) (*api.Heartbeat, error) {
	_, _ = b.extend()
	return nil, errors.New("connection reset")
}

// compare answers as the contract says: 412 unless expected is what is stored.
func (b *beatServer) compare(expected string) (*api.Heartbeat, error) {
	if expected == b.stored {
		return b.extend()
	}
	return nil, b.mismatch(api.WorkActive, &b.stored)
}

func (b *beatServer) mismatch(state api.WorkState, last *string) error {
	details, err := json.Marshal(map[string]any{"current_state": api.LeaseState{State: state, LastHeartbeat: last, TTLSeconds: b.ttl}})
	if err != nil {
		return err
	}
	return &client.Error{Status: http.StatusPreconditionFailed, Details: details}
}

// beatFor runs a lease for d and gives its news.
func beatFor(t *testing.T, d time.Duration, b *beatServer, last string) (news []LeaseNews) {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	l := &lease{send: b.send, tell: func(n LeaseNews) { news = append(news, n) }, log: slog.New(slog.DiscardHandler), last: last}
	l.run(ctx)
	return news
}

func TestLeaseReactions(t *testing.T) {
	other := "2031-01-01T00:00:00Z"
	type script = []func(string) (*api.Heartbeat, error)
	tests := []struct {
		name   string
		script func(b *beatServer) script
		run    time.Duration
		want   []LeaseNews
	}{
		{"extended for ever", func(b *beatServer) script { return nil }, time.Hour, nil},
		{"stopping goes on beating and is told once", func(b *beatServer) script {
			return script{b.compareFirst, b.answer(api.WorkStopping, true), b.answer(api.WorkStopping, true), b.answer(api.WorkStopping, false)}
		}, 4 * time.Minute, []LeaseNews{LeaseStopping}},
		{"stopping then stopped", func(b *beatServer) script {
			return script{b.compareFirst, b.answer(api.WorkStopping, true), b.answer(api.WorkStopped, false)}
		}, time.Hour, []LeaseNews{LeaseStopping, LeaseStopped}},
		{"stopped", func(b *beatServer) script { return script{b.answer(api.WorkStopped, false)} }, time.Hour, []LeaseNews{LeaseStopped}},
		{"not extended", func(b *beatServer) script { return script{b.answer(api.WorkActive, false)} }, time.Hour, []LeaseNews{LeaseStopped}},
		{"412 of a re-queued item", func(b *beatServer) script {
			return script{b.compareFirst, func(string) (*api.Heartbeat, error) { return nil, b.mismatch(api.WorkQueued, nil) }}
		}, time.Hour, []LeaseNews{LeaseLost}},
		{"412 of another holder", func(b *beatServer) script {
			return script{b.compareFirst, func(string) (*api.Heartbeat, error) { return nil, b.mismatch(api.WorkActive, &other) }}
		}, time.Hour, []LeaseNews{LeaseLost}},
		{"412 without a body", func(b *beatServer) script { return script{b.status(412)} }, time.Hour, []LeaseNews{LeaseLost}},
		{"412 of a superseded item", func(b *beatServer) script {
			return script{b.compareFirst, b.loseAnswer, func(string) (*api.Heartbeat, error) { return nil, b.mismatch(api.WorkStopped, &b.stored) }}
		}, time.Hour, []LeaseNews{LeaseLost}},
		{"412 after our own lost answer", func(b *beatServer) script {
			return script{b.compareFirst, b.loseAnswer, b.compare, b.compare, b.compare}
		}, time.Hour, nil},
		{"412 after the first answer was lost", func(b *beatServer) script { return script{b.loseAnswer, b.compare, b.compare} }, time.Hour, nil},
		{"412 that shows our own last beat", func(b *beatServer) script {
			return script{b.compareFirst, func(expected string) (*api.Heartbeat, error) { return nil, b.mismatch(api.WorkActive, &expected) }, b.compare}
		}, time.Hour, nil},
		{"412 in doubt that shows an older beat, of a clock that went back", func(b *beatServer) script {
			b.stored = "1999-01-01T00:00:00Z" // the clock of synctest begins in 2000
			return script{b.compareFirst, func(string) (*api.Heartbeat, error) {
				b.stored = "1999-01-01T00:00:00Z"
				return nil, errors.New("connection reset")
			}, b.compare, b.compare}
		}, time.Hour, nil},
		{"412 of a lease that nobody has begun", func(b *beatServer) script {
			return script{func(string) (*api.Heartbeat, error) { return nil, b.mismatch(api.WorkStarting, nil) }, b.compareFirst}
		}, time.Hour, nil},
		{"412 that shows our own last beat, for the whole lease", func(b *beatServer) script {
			all := script{b.compareFirst}
			for range 1000 {
				all = append(all, func(expected string) (*api.Heartbeat, error) { return nil, b.mismatch(api.WorkActive, &expected) })
			}
			return all
		}, time.Hour, []LeaseNews{LeaseLost}},
		{"404", func(b *beatServer) script { return script{b.status(404)} }, time.Hour, []LeaseNews{LeaseRefused}},
		{"401", func(b *beatServer) script { return script{b.compareFirst, b.status(401)} }, time.Hour, []LeaseNews{LeaseRefused}},
		{"a few 500, 409, 429 and 408", func(b *beatServer) script {
			return script{b.compareFirst, b.status(500), b.status(409), b.status(429), b.status(408), b.status(503)}
		}, time.Hour, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &beatServer{ttl: 60}
				b.script = tt.script(b)
				if diff := cmp.Diff(tt.want, beatFor(t, tt.run, b, "")); diff != "" {
					t.Error(diff)
				}
				if b.seen[0] != api.NoHeartbeat {
					t.Errorf("the first beat expects %q", b.seen[0])
				}
			})
		})
	}
}

func (b *beatServer) compareFirst(string) (*api.Heartbeat, error) { return b.extend() }

func TestLeaseCadence(t *testing.T) {
	for _, tt := range []struct {
		ttl   int
		every time.Duration
	}{{600, 30 * time.Second}, {60, 30 * time.Second}, {20, 10 * time.Second}, {1, time.Second}, {0, 30 * time.Second}, {-5, 30 * time.Second}} {
		synctest.Test(t, func(t *testing.T) {
			b := &beatServer{ttl: tt.ttl}
			beatFor(t, 5*tt.every+tt.every/2, b, "")
			for i, at := range b.at {
				if at != time.Duration(i)*tt.every {
					t.Errorf("ttl %d: beat %d at %v, want every %v", tt.ttl, i, at, tt.every)
				}
			}
			if len(b.at) != 6 {
				t.Errorf("ttl %d: %d beats", tt.ttl, len(b.at))
			}
		})
	}
}

func TestLeaseIsGivenUpAfterOneTTLOfSilence(t *testing.T) {
	for _, tt := range []struct {
		name  string
		first bool
		ttl   int
		want  time.Duration
	}{{"after a beat", true, 60, 60 * time.Second}, {"before any", false, 60, beatFirstTTL}} {
		synctest.Test(t, func(t *testing.T) {
			b := &beatServer{ttl: tt.ttl}
			if tt.first {
				b.script = append(b.script, b.compareFirst)
			}
			for range 5000 {
				b.script = append(b.script, b.status(500))
			}
			began := time.Now()
			news := beatFor(t, time.Hour, b, "")
			if took := time.Since(began); !slices.Equal(news, []LeaseNews{LeaseLost}) || took > tt.want+time.Second || took < tt.want-time.Second {
				t.Errorf("%s: %v after %v, want lost after %v", tt.name, news, took, tt.want)
			}
			if n := len(b.seen); n < 4 || n > 60 {
				t.Errorf("%s: %d tries", tt.name, n)
			}
		})
	}
}

func TestLeaseHangingBeatsAreCutAtTheInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &beatServer{ttl: 20}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		var news []LeaseNews
		n := 0
		l := &lease{tell: func(n LeaseNews) { news = append(news, n) }, log: slog.New(slog.DiscardHandler)}
		l.send = func(ctx context.Context, expected string) (*api.Heartbeat, error) {
			if n++; n == 1 {
				return b.extend()
			}
			<-ctx.Done()
			return nil, ctx.Err()
		}
		began := time.Now()
		l.run(ctx)
		if took := time.Since(began); !slices.Equal(news, []LeaseNews{LeaseLost}) || took > 21*time.Second || n < 2 {
			t.Errorf("%v after %v and %d beats", news, took, n)
		}
	})
}

func TestLeaseContinuesAnothersBeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &beatServer{ttl: 60}
		beatFor(t, time.Second, b, "2026-01-01T00:00:00Z")
		if !slices.Equal(b.seen, []string{"2026-01-01T00:00:00Z"}) {
			t.Errorf("expected values %v", b.seen)
		}
	})
}

// TestLeaseIsBeatenForInTime has answers that say nothing new of when the lease
// was last extended, or say it late: the next beat comes before half of it is
// left unused.
func TestLeaseIsBeatenForInTime(t *testing.T) {
	for name, trouble := range map[string]func(b *beatServer) []func(string) (*api.Heartbeat, error){
		"412 with the last beat": func(b *beatServer) []func(string) (*api.Heartbeat, error) {
			return []func(string) (*api.Heartbeat, error){b.compareFirst, func(expected string) (*api.Heartbeat, error) { return nil, b.mismatch(api.WorkActive, &expected) }}
		},
		"an answer that took long to be lost": func(b *beatServer) []func(string) (*api.Heartbeat, error) {
			return []func(string) (*api.Heartbeat, error){b.compareFirst, func(string) (*api.Heartbeat, error) {
				_, _ = b.extend()
				time.Sleep(25 * time.Second)
				return nil, errors.New("connection reset")
			}, b.compare}
		},
		"an answer that took long": func(b *beatServer) []func(string) (*api.Heartbeat, error) {
			return []func(string) (*api.Heartbeat, error){b.compareFirst, func(string) (*api.Heartbeat, error) {
				hb, err := b.extend()
				time.Sleep(25 * time.Second)
				return hb, err
			}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &beatServer{ttl: 60}
				b.script = trouble(b)
				beatFor(t, 5*time.Minute, b, "")
				extended := b.at[1] // the second beat is the one in trouble
				if name == "412 with the last beat" {
					extended = b.at[0]
				}
				next := b.at[len(b.script)]
				if next-extended > 35*time.Second {
					t.Errorf("beats at %v; extended at %v, then at %v", b.at[:5], extended, next)
				}
			})
		})
	}
}

// TestLeaseTakesNoSuccessorsForItsOwn has a first beat that is in doubt for
// longer than the lease lasts, as the refusal says: what it shows then is
// another holder's.
func TestLeaseTakesNoSuccessorsForItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		b := &beatServer{ttl: 30}
		var news []LeaseNews
		l := &lease{log: slog.New(slog.DiscardHandler), tell: func(n LeaseNews) { news = append(news, n) }}
		l.send = func(ctx context.Context, expected string) (*api.Heartbeat, error) {
			if expected != api.NoHeartbeat {
				t.Errorf("it beats on %q, which is not its own", expected)
				return b.extend()
			}
			if time.Since(began) < 40*time.Second {
				return nil, errors.New("connection refused")
			}
			theirs := "2031-01-01T00:00:00Z"
			return nil, b.mismatch(api.WorkActive, &theirs)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		l.run(ctx)
		if diff := cmp.Diff([]LeaseNews{LeaseLost}, news); diff != "" {
			t.Error(diff)
		}
	})
}
