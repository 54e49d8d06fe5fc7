-- +goose Up
-- Frames are found by their places.
DROP INDEX events_by_emit;

-- +goose Down
CREATE INDEX events_by_emit ON events (session_id, emit);
