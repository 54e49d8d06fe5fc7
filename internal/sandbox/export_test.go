package sandbox

import (
	"context"
	"time"
)

// Take takes one for a spec.
func (k *Keeper) Take(ctx context.Context, s Spec) (Sandbox, bool) { return k.pool.take(ctx, s) }

// ForgetPast removes what is kept too long at a time.
func (k *Keeper) ForgetPast(ctx context.Context, now time.Time) { k.forgetPast(ctx, now) }
