package record

import (
	"encoding/json"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/plane"
)

// Work: id, environment_id, session_id, state, metadata, has_input, token_id,
// token_hash, created_at, not_before, prefer_worker, prefer_until,
// delivered_at, delivered_to, acked_at, acked_by_key, started_at,
// heartbeat_at, last_heartbeat, prev_expected, beat_by_token, ttl_seconds,
// lease_until, due_at, stop_requested_at, stopped_at, ended_by,
// superseded_by, streamed, tries, possibly_started.
func Work(r Row) (w plane.WorkItem, err error) {
	w.ID, w.EnvironmentID, w.SessionID, w.State = r.Text(), r.Text(), r.Text(), api.WorkState(r.Text())
	if w.Metadata, err = metadata(r.Bytes()); err != nil {
		return w, err
	}
	w.HasInput, w.TokenID, w.TokenHash = r.Bool(), r.Text(), hash(r.Bytes())
	w.CreatedAt, w.NotBefore, w.PreferWorker, w.PreferUntil = r.Time(), r.Time(), r.Text(), r.Time()
	w.DeliveredAt, w.DeliveredTo, w.AckedAt, w.AckedByKey = r.TimePtr(), r.Text(), r.TimePtr(), r.Text()
	w.StartedAt, w.HeartbeatAt, w.LastHeartbeat, w.PrevExpected = r.TimePtr(), r.TimePtr(), r.Text(), r.Text()
	w.BeatByToken, w.TTLSeconds, w.LeaseUntil, w.DueAt = r.Bool(), int(r.Int()), r.Time(), r.Time()
	w.StopRequestedAt, w.StoppedAt, w.EndedBy, w.SupersededBy = r.TimePtr(), r.TimePtr(), plane.EndedBy(r.Text()), r.Text()
	w.Streamed, w.Tries = r.Bool(), int(r.Int())
	if ids := r.Bytes(); len(ids) > 0 {
		err = json.Unmarshal(ids, &w.PossiblyStarted)
	}
	return w, err
}

func WorkValues(w *plane.WorkItem) ([]any, error) {
	meta, err := metadataText(w.Metadata)
	if err != nil {
		return nil, err
	}
	ids := ""
	if w.PossiblyStarted != nil {
		if ids, err = text(w.PossiblyStarted); err != nil {
			return nil, err
		}
	}
	return []any{
		w.ID, w.EnvironmentID, w.SessionID, string(w.State), meta, w.HasInput, w.TokenID, hashBytes(w.TokenHash),
		w.CreatedAt, w.NotBefore, w.PreferWorker, w.PreferUntil, w.DeliveredAt, w.DeliveredTo, w.AckedAt, w.AckedByKey,
		w.StartedAt, w.HeartbeatAt, w.LastHeartbeat, w.PrevExpected, w.BeatByToken, int64(w.TTLSeconds), w.LeaseUntil, w.DueAt,
		w.StopRequestedAt, w.StoppedAt, string(w.EndedBy), w.SupersededBy, w.Streamed, int64(w.Tries), ids,
	}, nil
}
