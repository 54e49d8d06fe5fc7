-- +goose Up
-- What a send with an Idempotency-Key became, so that a repeat adds nothing.
CREATE TABLE sends (
    session_id text COLLATE "C" NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    name       text COLLATE "C" NOT NULL,
    digest     bytea NOT NULL,
    event_ids  text NOT NULL,
    at         timestamptz NOT NULL,
    PRIMARY KEY (session_id, name)
);

-- +goose Down
DROP TABLE sends;
