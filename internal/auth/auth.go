// Package auth makes, keeps and checks credentials: API keys, environment
// keys and the sessions token of each delivery. A secret is shown once; the
// store holds its SHA-256, which is compared in constant time.
package auth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"log/slog"
	"math/big"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
)

// Prefixes tell the kinds of credential apart by value.
const (
	PrefixAPI         = "sk-berth-api01-"
	PrefixEnvironment = "sk-berth-env01-"
	PrefixSessions    = "sk-berth-req01-"
)

const (
	publicLen = 8
	secretLen = 43 // base62 of 256 bits

	maxName   = 256
	usedEvery = time.Minute
	flushTime = 10 * time.Second
)

const base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// Identity is who makes a request.
type Identity = plane.Identity

// Keys makes and checks credentials. Safe for concurrent use. Check works
// before Start; what was used last is written between Start and Stop only.
type Keys struct {
	st  store.Store
	now func() time.Time

	mu      sync.Mutex
	used    map[string]time.Time // when a key was last seen, not yet written
	written map[string]time.Time // when its last use was last noted
	wake    chan struct{}
	quit    chan struct{} // closed by Stop; nil while not running
	done    chan struct{}
}

// New makes Keys over a store.
func New(st store.Store) *Keys {
	return &Keys{
		st: st, now: time.Now,
		used: map[string]time.Time{}, written: map[string]time.Time{},
		wake: make(chan struct{}, 1),
	}
}

// NewTokenID makes the public id by which a sessions token is found.
func NewTokenID() string { return random(6, publicLen) }

// NewToken makes a sessions token of a public id, and the hash that proves it.
func NewToken(publicID string) (token string, hash [32]byte) {
	token = PrefixSessions + publicID + random(32, secretLen)
	return token, sha256.Sum256([]byte(token))
}

// Create makes a key and gives its secret, which is not kept. environment is
// set for an environment key and "" for an API key.
func (k *Keys) Create(ctx context.Context, kind plane.KeyKind, environment, name string) (string, plane.Key, error) {
	prefix := PrefixAPI
	switch {
	case kind != plane.KeyAPI && kind != plane.KeyEnvironment:
		return "", plane.Key{}, plane.Errorf(plane.Invalid, "is neither %q nor %q", plane.KeyAPI, plane.KeyEnvironment).In("kind")
	case kind == plane.KeyEnvironment && environment == "":
		return "", plane.Key{}, plane.Errorf(plane.Invalid, "is required for an environment key").In("environment_id")
	case kind == plane.KeyAPI && environment != "":
		return "", plane.Key{}, plane.Errorf(plane.Invalid, "does not belong to an API key").In("environment_id")
	case utf8.RuneCountInString(name) > maxName:
		return "", plane.Key{}, plane.Errorf(plane.Invalid, "has more than %d characters", maxName).In("name")
	case kind == plane.KeyEnvironment:
		prefix = PrefixEnvironment
	}
	secret, id, hash := newSecret(prefix)
	key := plane.Key{
		ID: id, Kind: kind, EnvironmentID: environment, Name: name, Hash: hash,
		CreatedAt: k.now().UTC().Truncate(time.Microsecond),
	}
	err := k.st.Update(ctx, func(tx store.Tx) error {
		if environment != "" {
			if _, err := tx.Environment(environment); err != nil {
				return err
			}
		}
		return tx.InsertKey(key)
	})
	if err != nil {
		return "", plane.Key{}, err
	}
	return secret, key, nil
}

// List lists the keys of an environment, or the API keys when environment is
// "", revoked ones included.
func (k *Keys) List(ctx context.Context, environment string) (keys []plane.Key, err error) {
	err = k.st.View(ctx, func(r store.Reader) (err error) {
		keys, err = r.Keys(environment)
		return err
	})
	return keys, err
}

// Revoke makes a key useless from now on. Twice is fine; an unknown key is
// NotFound.
func (k *Keys) Revoke(ctx context.Context, id string) (key plane.Key, err error) {
	now := k.now().UTC().Truncate(time.Microsecond)
	err = k.st.Update(ctx, func(tx store.Tx) (err error) {
		key, err = tx.Key(id)
		if err != nil || key.RevokedAt != nil {
			return err
		}
		key.RevokedAt = &now
		return tx.UpdateKey(key)
	})
	return key, err
}

// Check says who presents a credential. An unknown, malformed or revoked one
// is Unauthenticated; a sessions token whose delivery has ended is given with
// its Standing.
func (k *Keys) Check(ctx context.Context, presented string) (Identity, error) {
	prefix, publicID, ok := split(presented)
	if !ok {
		return Identity{}, refused()
	}
	if prefix == PrefixSessions {
		return k.checkToken(ctx, presented, publicID)
	}
	key, err := k.st.Key(ctx, publicID)
	if err != nil && plane.KindOf(err) != plane.NotFound {
		return Identity{}, err
	}
	// An unknown key takes the same steps as a known one.
	hash := sha256.Sum256([]byte(presented))
	right := subtle.ConstantTimeCompare(hash[:], key.Hash[:]) == 1
	if err != nil || !right || key.RevokedAt != nil || prefix != prefixOf(key.Kind) {
		return Identity{}, refused()
	}
	k.noteUse(key)
	who := Identity{Kind: plane.CallerAPI, KeyID: key.ID, Standing: plane.Live}
	if key.Kind == plane.KeyEnvironment {
		who.Kind, who.EnvironmentID = plane.CallerEnvironment, key.EnvironmentID
	}
	return who, nil
}

func (k *Keys) checkToken(ctx context.Context, presented, publicID string) (Identity, error) {
	w, err := k.st.WorkByToken(ctx, publicID)
	if err != nil && plane.KindOf(err) != plane.NotFound {
		return Identity{}, err
	}
	hash := sha256.Sum256([]byte(presented))
	if right := subtle.ConstantTimeCompare(hash[:], w.TokenHash[:]) == 1; err != nil || !right {
		return Identity{}, refused()
	}
	return Identity{
		Kind: plane.CallerSessions, KeyID: publicID, EnvironmentID: w.EnvironmentID,
		SessionID: w.SessionID, WorkID: w.ID, Standing: w.TokenStanding(k.now()),
	}, nil
}

// noteUse remembers a use, to be written by the goroutine; at most once a
// minute for each key.
func (k *Keys) noteUse(key plane.Key) {
	now := k.now()
	k.mu.Lock()
	defer k.mu.Unlock()
	last, seen := k.written[key.ID]
	if !seen && key.LastUsedAt != nil {
		last = *key.LastUsedAt
	}
	if now.Sub(last) < usedEvery {
		return
	}
	k.written[key.ID] = now
	k.used[key.ID] = now.UTC().Truncate(time.Microsecond)
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// Start starts writing down when keys were last used. Twice is fine.
func (k *Keys) Start() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.quit != nil {
		return
	}
	k.quit, k.done = make(chan struct{}), make(chan struct{})
	go k.run(k.quit, k.done)
}

// Stop writes what is left and returns when the goroutine is gone. Twice is
// fine.
func (k *Keys) Stop() {
	k.mu.Lock()
	quit, done := k.quit, k.done
	k.quit = nil
	k.mu.Unlock()
	if quit != nil {
		close(quit)
	}
	if done != nil {
		<-done
	}
}

func (k *Keys) run(quit, done chan struct{}) {
	defer close(done)
	for {
		select {
		case <-k.wake:
			k.flush()
		case <-quit:
			k.flush()
			return
		}
	}
}

// flush writes last uses in one transition. What fails is forgotten: the next
// use in a minute's time says it again.
func (k *Keys) flush() {
	k.mu.Lock()
	used := k.used
	k.used = map[string]time.Time{}
	k.mu.Unlock()
	if len(used) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), flushTime)
	defer cancel()
	err := k.st.Update(ctx, func(tx store.Tx) error {
		for id, at := range used {
			key, err := tx.Key(id)
			if plane.KindOf(err) == plane.NotFound && err != nil {
				continue
			}
			if err != nil {
				return err
			}
			if key.LastUsedAt != nil && !key.LastUsedAt.Before(at) {
				continue
			}
			key.LastUsedAt = &at
			if err := tx.UpdateKey(key); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		slog.Warn("auth: the last use of keys was not written", "keys", len(used), "error", err)
	}
}

func prefixOf(kind plane.KeyKind) string {
	if kind == plane.KeyEnvironment {
		return PrefixEnvironment
	}
	return PrefixAPI
}

func refused() error {
	return plane.Errorf(plane.Unauthenticated, "the credential is unknown or revoked")
}

// Kind says what a credential claims to be by its looks; ok is false for
// something that is none of ours.
func Kind(presented string) (kind plane.CallerKind, ok bool) {
	prefix, _, ok := split(presented)
	switch prefix {
	case PrefixAPI:
		kind = plane.CallerAPI
	case PrefixEnvironment:
		kind = plane.CallerEnvironment
	case PrefixSessions:
		kind = plane.CallerSessions
	}
	return kind, ok
}

func split(presented string) (prefix, publicID string, ok bool) {
	for _, p := range []string{PrefixAPI, PrefixEnvironment, PrefixSessions} {
		rest, found := strings.CutPrefix(presented, p)
		if !found {
			continue
		}
		if len(rest) != publicLen+secretLen {
			return "", "", false
		}
		for i := range len(rest) {
			if strings.IndexByte(base62, rest[i]) < 0 {
				return "", "", false
			}
		}
		return p, rest[:publicLen], true
	}
	return "", "", false
}

func newSecret(prefix string) (secret, publicID string, hash [32]byte) {
	publicID = random(6, publicLen)
	secret = prefix + publicID + random(32, secretLen)
	return secret, publicID, sha256.Sum256([]byte(secret))
}

// random is n random bytes as base62, width characters wide at least.
func random(n, width int) string {
	b := make([]byte, n)
	rand.Read(b)
	v, radix, digit := new(big.Int).SetBytes(b), big.NewInt(62), new(big.Int)
	out := make([]byte, width)
	for i := range out {
		v.DivMod(v, radix, digit)
		out[width-1-i] = base62[digit.Int64()]
	}
	return string(out)
}
