package turn

import (
	"crypto/sha256"

	"github.com/berthdev/berth/internal/plane"
)

// digest tells sends apart.
func (s Send) digest() [32]byte {
	h := sha256.New()
	for _, raw := range s.Events {
		h.Write(raw)
		h.Write([]byte{0})
	}
	return [32]byte(h.Sum(nil))
}

// sentBefore gives again what a send with this key gave, if there was one.
func (a *accepting) sentBefore(send Send) (known bool, err error) {
	if send.Key == "" {
		return false, nil
	}
	before, err := a.tx.Send(a.s.ID, send.Key)
	switch {
	case err != nil && plane.KindOf(err) == plane.NotFound:
		return false, nil
	case err != nil:
		return false, err
	case before.Digest != send.digest():
		return false, plane.Errorf(plane.Invalid, "this Idempotency-Key was used for other events of the session; use a new one for each send").In("Idempotency-Key")
	}
	for _, id := range before.EventIDs {
		if err := a.again(id); err != nil {
			return false, err
		}
	}
	return true, nil
}

// noteSend remembers what a send with a key became.
func (a *accepting) noteSend(send Send) error {
	if send.Key == "" {
		return nil
	}
	if err := a.tx.PruneSends(a.s.ID, a.now.Add(-KeepSends)); err != nil {
		return err
	}
	ids := make([]string, len(a.out))
	for i, e := range a.out {
		ids[i] = e.Head().ID
	}
	return a.tx.InsertSend(plane.Send{SessionID: a.s.ID, Key: send.Key, Digest: send.digest(), EventIDs: ids, At: a.now})
}
