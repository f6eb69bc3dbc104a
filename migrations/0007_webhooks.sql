-- URLs that receive an account's events. A row is changed seldom: progress has its own insert-only table.
CREATE TABLE webhook_endpoints (
    account_id      uuid        NOT NULL,
    -- The execution_id of the idempotency key that created it.
    endpoint_id     uuid        NOT NULL,
    url             text        NOT NULL CHECK (char_length(url) BETWEEN 1 AND 2048),
    -- Empty: events of all types.
    event_types     smallint[]  NOT NULL,
    description     text        NOT NULL CHECK (char_length(description) <= 500),
    created_at      timestamptz NOT NULL DEFAULT now(),
    enabled         boolean     NOT NULL DEFAULT true,
    -- NULL: disabled by its owner, or enabled.
    disabled_reason text        CHECK (disabled_reason IN ('gone', 'failing')),
    -- Encrypted under the key of WEBHOOK_SECRET that key_id names.
    key_id          bytea       NOT NULL,
    secret          bytea       NOT NULL,
    -- The secret before a rotation, which signs as well until then.
    previous_secret bytea,
    previous_until  timestamptz,
    -- Events after this position are delivered.
    after_position  bigint      NOT NULL CHECK (after_position >= 0),
    -- The positions that are delivered again; NULL: none.
    replay_from     bigint,
    replay_to       bigint,
    -- Counts the replays, so that each has progress of its own.
    replay_number   bigint      NOT NULL DEFAULT 0,
    -- One server at a time delivers. Its writes name this epoch, so a server that lost its lease changes nothing.
    lease_epoch     bigint      NOT NULL DEFAULT 0,
    lease_until     timestamptz NOT NULL DEFAULT '-infinity',
    -- The server that has or had the lease, for an even distribution.
    lease_holder    uuid,
    -- Another server has fewer endpoints, and asks for this one.
    lease_wanted    boolean     NOT NULL DEFAULT false,
    -- No call before then, because too many failed.
    resume_at       timestamptz,
    failing_since   timestamptz,
    last_success_at timestamptz,
    last_status     smallint,
    last_error      text,
    -- Events that expired before they were delivered.
    lost_from       bigint,
    lost_to         bigint,
    PRIMARY KEY (account_id, endpoint_id)
-- Renewed leases change no index: their rows stay on their pages.
) WITH (fillfactor = 70);

-- How far an endpoint's deliveries got. Insert-only, because an updated row becomes slow while any transaction keeps
-- an old snapshot: the row with the highest number counts, and older ones are deleted.
CREATE TABLE webhook_progress (
    account_id  uuid     NOT NULL,
    endpoint_id uuid     NOT NULL,
    -- 0: first deliveries; otherwise the number of the replay.
    replay      bigint   NOT NULL,
    number      bigint   NOT NULL,
    -- All events up to this position are done: delivered, filtered out, or kept in webhook_failures.
    position    bigint   NOT NULL,
    -- Bit n: the event at position + 1 + n is done, too.
    done        bigint   NOT NULL,
    PRIMARY KEY (account_id, endpoint_id, replay, number),
    FOREIGN KEY (account_id, endpoint_id) REFERENCES webhook_endpoints ON DELETE CASCADE
);

-- Deliveries that failed and are attempted again.
CREATE TABLE webhook_failures (
    account_id  uuid        NOT NULL,
    endpoint_id uuid        NOT NULL,
    position    bigint      NOT NULL,
    type        smallint    NOT NULL,
    version     smallint    NOT NULL,
    subject     uuid        NOT NULL,
    -- Later events of this payment wait.
    payment_id  uuid        NOT NULL,
    at          timestamptz NOT NULL,
    -- 0: it waits for an earlier event, or its first call still runs.
    attempts    smallint    NOT NULL,
    -- NULL: parked; only a replay delivers it.
    next_at     timestamptz,
    last_status smallint,
    last_error  text,
    PRIMARY KEY (account_id, endpoint_id, position),
    FOREIGN KEY (account_id, endpoint_id) REFERENCES webhook_endpoints ON DELETE CASCADE
);
CREATE INDEX webhook_failures_due ON webhook_failures (account_id, endpoint_id, next_at);
