-- +goose Up
CREATE TABLE environments (
    id          TEXT PRIMARY KEY,
    name        TEXT NOT NULL UNIQUE,
    archived_at INTEGER,
    body        TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE keys (
    id             TEXT PRIMARY KEY,
    kind           TEXT NOT NULL,
    environment_id TEXT REFERENCES environments (id) ON DELETE CASCADE,
    name           TEXT NOT NULL,
    hash           BLOB NOT NULL,
    created_at     INTEGER NOT NULL,
    last_used_at   INTEGER,
    revoked_at     INTEGER
) WITHOUT ROWID;
CREATE INDEX keys_by_environment ON keys (environment_id, created_at, id);

CREATE TABLE agents (
    id          TEXT NOT NULL,
    version     INTEGER NOT NULL,
    latest      INTEGER NOT NULL,
    created_at  INTEGER NOT NULL,
    archived_at INTEGER,
    body        TEXT NOT NULL,
    PRIMARY KEY (id, version)
);
CREATE UNIQUE INDEX agents_latest ON agents (id) WHERE latest = 1;

-- What changes at every step of a turn; the rest is in session_profiles.
CREATE TABLE sessions (
    id                TEXT NOT NULL PRIMARY KEY,
    environment_id    TEXT NOT NULL REFERENCES environments (id) ON DELETE CASCADE,
    status            TEXT NOT NULL,
    created_at        INTEGER NOT NULL,
    updated_at        INTEGER NOT NULL,
    archived_at       INTEGER,
    counts            TEXT NOT NULL,
    thread_id         TEXT NOT NULL,
    pos               INTEGER NOT NULL,
    emit              INTEGER NOT NULL,
    last_processed_at INTEGER,
    turn              TEXT NOT NULL,
    turn_owner        TEXT NOT NULL,
    turn_fence        INTEGER NOT NULL,
    turn_until        INTEGER,
    turn_since        INTEGER,
    stop_reason       TEXT NOT NULL,
    has_input         INTEGER NOT NULL,
    last_input_at     INTEGER,
    agent_id          TEXT NOT NULL,
    agent_version     INTEGER NOT NULL
);
CREATE INDEX sessions_by_environment ON sessions (environment_id, id);
CREATE INDEX sessions_by_agent ON sessions (agent_id, id);
CREATE INDEX sessions_wanted ON sessions (id) WHERE turn = 'wanted';

CREATE TABLE session_profiles (
    session_id TEXT NOT NULL PRIMARY KEY REFERENCES sessions (id) ON DELETE CASCADE,
    profile    TEXT NOT NULL
);

CREATE TABLE events (
    session_id   TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    id           TEXT NOT NULL,
    type         TEXT NOT NULL,
    pos          INTEGER NOT NULL, -- 0 while queued
    emit         INTEGER NOT NULL,
    processed_at INTEGER,
    body         TEXT NOT NULL,
    PRIMARY KEY (session_id, id)
);
CREATE INDEX events_by_pos ON events (session_id, pos, id);
CREATE INDEX events_by_emit ON events (session_id, emit);

CREATE TABLE calls (
    session_id    TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    id            TEXT NOT NULL,
    kind          TEXT NOT NULL,
    name          TEXT NOT NULL,
    state         TEXT NOT NULL,
    pos           INTEGER NOT NULL,
    request_id    TEXT NOT NULL,
    answer_id     TEXT NOT NULL,
    answer_digest BLOB,
    PRIMARY KEY (session_id, id)
) WITHOUT ROWID;
CREATE INDEX calls_open ON calls (session_id, pos) WHERE state IN ('asked', 'open');

CREATE TABLE replays (
    session_id TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    request_id TEXT NOT NULL,
    pos        INTEGER NOT NULL,
    provider   TEXT NOT NULL,
    content    TEXT NOT NULL,
    call_ids   TEXT NOT NULL,
    PRIMARY KEY (session_id, pos)
);

CREATE TABLE work (
    id                TEXT NOT NULL PRIMARY KEY,
    environment_id    TEXT NOT NULL REFERENCES environments (id) ON DELETE CASCADE,
    session_id        TEXT NOT NULL, -- outlives the session, so that its holder can let go
    state             TEXT NOT NULL,
    metadata          TEXT NOT NULL,
    has_input         INTEGER NOT NULL,
    token_id          TEXT NOT NULL,
    token_hash        BLOB,
    created_at        INTEGER NOT NULL,
    not_before        INTEGER,
    prefer_worker     TEXT NOT NULL,
    prefer_until      INTEGER,
    delivered_at      INTEGER,
    delivered_to      TEXT NOT NULL,
    acked_at          INTEGER,
    acked_by_key      TEXT NOT NULL,
    started_at        INTEGER,
    heartbeat_at      INTEGER,
    last_heartbeat    TEXT NOT NULL,
    prev_expected     TEXT NOT NULL,
    beat_by_token     INTEGER NOT NULL,
    ttl_seconds       INTEGER NOT NULL,
    lease_until       INTEGER,
    due_at            INTEGER,
    stop_requested_at INTEGER,
    stopped_at        INTEGER,
    ended_by          TEXT NOT NULL,
    superseded_by     TEXT NOT NULL,
    streamed          INTEGER NOT NULL,
    tries             INTEGER NOT NULL,
    possibly_started  TEXT NOT NULL
);
CREATE INDEX work_by_environment ON work (environment_id, id);
CREATE INDEX work_by_session ON work (session_id, id);
CREATE UNIQUE INDEX work_live ON work (session_id) WHERE state <> 'stopped';
CREATE UNIQUE INDEX work_by_token ON work (token_id) WHERE token_id <> '';
-- In the order of an offer.
CREATE INDEX work_offer ON work (environment_id, has_input DESC, created_at, id) WHERE state = 'queued';
CREATE INDEX work_held ON work (environment_id, not_before) WHERE state = 'queued' AND not_before IS NOT NULL;
CREATE INDEX work_preferred ON work (environment_id, prefer_until) WHERE state = 'queued' AND prefer_until IS NOT NULL;
CREATE INDEX work_acked ON work (environment_id) WHERE state IN ('starting', 'active', 'stopping');
CREATE INDEX work_due ON work (due_at, id) WHERE due_at IS NOT NULL;
CREATE INDEX work_stopped ON work (stopped_at) WHERE state = 'stopped';

CREATE TABLE workers (
    environment_id TEXT NOT NULL REFERENCES environments (id) ON DELETE CASCADE,
    worker         TEXT NOT NULL,
    seen_at        INTEGER NOT NULL,
    PRIMARY KEY (environment_id, worker)
) WITHOUT ROWID;

CREATE TABLE settings (
    name  TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

-- +goose Down
DROP TABLE settings;
DROP TABLE workers;
DROP TABLE work;
DROP TABLE replays;
DROP TABLE calls;
DROP TABLE events;
DROP TABLE session_profiles;
DROP TABLE sessions;
DROP TABLE agents;
DROP TABLE keys;
DROP TABLE environments;
