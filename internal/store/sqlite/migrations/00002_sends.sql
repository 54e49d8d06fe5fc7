-- +goose Up
-- What a send with an Idempotency-Key became, so that a repeat adds nothing.
CREATE TABLE sends (
    session_id TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    name       TEXT NOT NULL,
    digest     BLOB NOT NULL,
    event_ids  TEXT NOT NULL,
    at         INTEGER NOT NULL,
    PRIMARY KEY (session_id, name)
) WITHOUT ROWID;

-- +goose Down
DROP TABLE sends;
