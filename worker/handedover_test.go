package worker

import (
	"testing"
	"time"

	"github.com/berthdev/berth/api"
)

func TestHandedOver(t *testing.T) {
	at := func(s int) time.Time { return time.Unix(1_700_000_000+int64(s), 0).UTC() }
	ptr := func(s int) *time.Time { t := at(s); return &t }
	tests := []struct {
		name   string
		polled api.Work
		acked  *api.Work
		want   time.Time
	}{
		{"a fresh item: only what is older than it", api.Work{CreatedAt: at(0)}, &api.Work{AcknowledgedAt: ptr(29)}, at(0)},
		{"an item that waited for as long as a lease", api.Work{CreatedAt: at(0)}, &api.Work{AcknowledgedAt: ptr(30)}, at(30)},
		{"an item that was acked before", api.Work{CreatedAt: at(0), AcknowledgedAt: ptr(1)}, &api.Work{AcknowledgedAt: ptr(9)}, at(9)},
		{"an item that was started before", api.Work{CreatedAt: at(0), StartedAt: ptr(1)}, &api.Work{AcknowledgedAt: ptr(9)}, at(9)},
		{"an item that was beaten for before", api.Work{CreatedAt: at(0), LatestHeartbeatAt: ptr(1)}, &api.Work{AcknowledgedAt: ptr(9)}, at(9)},
		{"an item of an unknown age", api.Work{}, &api.Work{AcknowledgedAt: ptr(9)}, at(9)},
		{"an ack without its time", api.Work{CreatedAt: at(0)}, &api.Work{}, time.Time{}},
		{"an ack without an answer", api.Work{CreatedAt: at(0)}, nil, time.Time{}},
	}
	for _, tt := range tests {
		h := &held{item: HeldItem{Item: Item{Work: tt.polled}}, worker: &Worker{cfg: Config{Takeover: TakeoverInterrupt}}}
		if got := h.handedOver(tt.acked); !got.Equal(tt.want) {
			t.Errorf("%s: up to %v, want %v", tt.name, got, tt.want)
		}
		suspect := h.suspect(tt.acked, api.WorkSecret{})
		if suspect(at(31)) != tt.want.IsZero() {
			t.Errorf("%s: a call after the ack", tt.name)
		}
		if !suspect(tt.want) {
			t.Errorf("%s: a call in time is not suspected", tt.name)
		}
		h.item.BeatAt = at(0)
		if h.suspect(tt.acked, api.WorkSecret{}) != nil {
			t.Errorf("%s: suspected although the lease went on", tt.name)
		}
	}
}
