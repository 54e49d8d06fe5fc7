-- +goose Up
-- Frames are found by their places.
DROP INDEX events_by_emit;
CREATE INDEX events_queued ON events (session_id, emit) WHERE pos = 0;

-- +goose Down
DROP INDEX events_queued;
CREATE INDEX events_by_emit ON events (session_id, emit);
