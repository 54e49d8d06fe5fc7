-- +goose Up
CREATE TABLE environments (
    id          text COLLATE "C" PRIMARY KEY,
    name        text NOT NULL UNIQUE,
    archived_at timestamptz,
    body        text NOT NULL
);

CREATE TABLE keys (
    id             text COLLATE "C" PRIMARY KEY,
    kind           text NOT NULL,
    environment_id text COLLATE "C" REFERENCES environments (id) ON DELETE CASCADE,
    name           text NOT NULL,
    hash           bytea NOT NULL,
    created_at     timestamptz NOT NULL,
    last_used_at   timestamptz,
    revoked_at     timestamptz
);
CREATE INDEX keys_by_environment ON keys (environment_id, created_at, id);

CREATE TABLE agents (
    id          text COLLATE "C" NOT NULL,
    version     bigint NOT NULL,
    latest      boolean NOT NULL,
    created_at  timestamptz NOT NULL,
    archived_at timestamptz,
    body        text NOT NULL,
    PRIMARY KEY (id, version)
);
CREATE UNIQUE INDEX agents_latest ON agents (id) WHERE latest;

-- What changes at every step of a turn; the rest is in session_profiles.
CREATE TABLE sessions (
    id                text COLLATE "C" NOT NULL PRIMARY KEY,
    environment_id    text COLLATE "C" NOT NULL REFERENCES environments (id) ON DELETE CASCADE,
    status            text NOT NULL,
    created_at        timestamptz NOT NULL,
    updated_at        timestamptz NOT NULL,
    archived_at       timestamptz,
    counts            text NOT NULL,
    thread_id         text NOT NULL,
    pos               bigint NOT NULL,
    emit              bigint NOT NULL,
    last_processed_at timestamptz,
    turn              text NOT NULL,
    turn_owner        text NOT NULL,
    turn_fence        bigint NOT NULL,
    turn_until        timestamptz,
    turn_since        timestamptz,
    stop_reason       text NOT NULL,
    has_input         boolean NOT NULL,
    last_input_at     timestamptz,
    agent_id          text COLLATE "C" NOT NULL,
    agent_version     bigint NOT NULL
) WITH (fillfactor = 70);
CREATE INDEX sessions_by_environment ON sessions (environment_id, id);
CREATE INDEX sessions_by_agent ON sessions (agent_id, id);
CREATE INDEX sessions_wanted ON sessions (id) WHERE turn = 'wanted';

CREATE TABLE session_profiles (
    session_id text COLLATE "C" NOT NULL PRIMARY KEY REFERENCES sessions (id) ON DELETE CASCADE,
    profile    text NOT NULL
);

CREATE TABLE events (
    session_id   text COLLATE "C" NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    id           text COLLATE "C" NOT NULL,
    type         text NOT NULL,
    pos          bigint NOT NULL, -- 0 while queued
    emit         bigint NOT NULL,
    processed_at timestamptz,
    body         text NOT NULL,
    PRIMARY KEY (session_id, id)
);
CREATE INDEX events_by_pos ON events (session_id, pos, id);
CREATE INDEX events_by_emit ON events (session_id, emit);

CREATE TABLE calls (
    session_id    text COLLATE "C" NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    id            text COLLATE "C" NOT NULL,
    kind          text NOT NULL,
    name          text NOT NULL,
    state         text NOT NULL,
    pos           bigint NOT NULL,
    request_id    text NOT NULL,
    answer_id     text NOT NULL,
    answer_digest bytea,
    PRIMARY KEY (session_id, id)
);
CREATE INDEX calls_open ON calls (session_id, pos) WHERE state IN ('asked', 'open');

CREATE TABLE replays (
    session_id text COLLATE "C" NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    request_id text NOT NULL,
    pos        bigint NOT NULL,
    provider   text NOT NULL,
    content    text NOT NULL,
    call_ids   text NOT NULL,
    PRIMARY KEY (session_id, pos)
);

CREATE TABLE work (
    id                text COLLATE "C" NOT NULL PRIMARY KEY,
    environment_id    text COLLATE "C" NOT NULL REFERENCES environments (id) ON DELETE CASCADE,
    session_id        text COLLATE "C" NOT NULL, -- outlives the session, so that its holder can let go
    state             text NOT NULL,
    metadata          text NOT NULL,
    has_input         boolean NOT NULL,
    token_id          text COLLATE "C" NOT NULL,
    token_hash        bytea,
    created_at        timestamptz NOT NULL,
    not_before        timestamptz,
    prefer_worker     text NOT NULL,
    prefer_until      timestamptz,
    delivered_at      timestamptz,
    delivered_to      text NOT NULL,
    acked_at          timestamptz,
    acked_by_key      text NOT NULL,
    started_at        timestamptz,
    heartbeat_at      timestamptz,
    last_heartbeat    text NOT NULL,
    prev_expected     text NOT NULL,
    beat_by_token     boolean NOT NULL,
    ttl_seconds       bigint NOT NULL,
    lease_until       timestamptz,
    due_at            timestamptz,
    stop_requested_at timestamptz,
    stopped_at        timestamptz,
    ended_by          text NOT NULL,
    superseded_by     text NOT NULL,
    streamed          boolean NOT NULL,
    tries             bigint NOT NULL,
    possibly_started  text NOT NULL
) WITH (fillfactor = 70);
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
    environment_id text COLLATE "C" NOT NULL REFERENCES environments (id) ON DELETE CASCADE,
    worker         text COLLATE "C" NOT NULL,
    seen_at        timestamptz NOT NULL,
    PRIMARY KEY (environment_id, worker)
) WITH (fillfactor = 70);

CREATE TABLE settings (
    name  text NOT NULL PRIMARY KEY,
    value text NOT NULL
);

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
