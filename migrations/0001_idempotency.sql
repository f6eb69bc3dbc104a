-- The idempotency layer's own tables, and nothing else: a service that builds on the layer copies
-- this one file.
--
-- Both tables are insert-only: storing a response leaves no dead row behind, and purging responses
-- leaves their keys guarded.

CREATE TABLE idempotency_keys (
    account_id   uuid        NOT NULL,
    -- COLLATE "C": under a linguistic collation an upgrade of the operating system reorders the
    -- index, and used keys could be claimed again.
    key          text        COLLATE "C" NOT NULL,
    -- Names the execution and is the id of what it created (UUIDv7).
    execution_id uuid        NOT NULL,
    operation    text        COLLATE "C" NOT NULL,
    fingerprint  bytea       NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account_id, key)
);

CREATE TABLE idempotency_responses (
    execution_id     uuid        PRIMARY KEY,
    status           smallint    NOT NULL CHECK (status BETWEEN 100 AND 599),
    -- 'name: value', a line each.
    headers          text        NOT NULL,
    -- Bytes, not jsonb, so that a replay is the same to the byte.
    body             bytea       NOT NULL,
    created_at       timestamptz NOT NULL DEFAULT now(),
    -- By this database's clock. NULL: as long as the key is kept.
    replayable_until timestamptz
);
