package sandbox

import (
	"context"
	"time"
)

// Take takes one for a spec.
func (k *Keeper) Take(ctx context.Context, s Spec) (Sandbox, bool) {
	return k.pool.take(ctx, s, kindOf(s))
}

// ForgetPast removes what is kept too long at a time.
func (k *Keeper) ForgetPast(ctx context.Context, now time.Time) { k.forgetPast(ctx, now) }

// Enter has a folder to itself until it leaves.
func (k *Keeper) Enter(folder string) (leave func()) {
	p := k.enter(folder)
	return func() { k.leave(folder, p) }
}

// Users is how many have a folder, or wait for it.
func (k *Keeper) Users(folder string) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	if p := k.places[folder]; p != nil {
		return p.users
	}
	return 0
}
