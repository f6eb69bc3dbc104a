-- The idempotency layer's tables and its one function. A service that uses the layer copies this one file.
--
-- Both tables are insert-only: storing a response leaves no dead row behind, and deleting expired responses keeps
-- their keys, which still guard against a second execution.

CREATE TABLE idempotency_keys (
    account_id   uuid        NOT NULL,
    -- COLLATE "C", because an upgrade of the operating system can reorder an index under any other collation: then a
    -- used key could be claimed again.
    key          text        COLLATE "C" NOT NULL,
    -- UUIDv7: names the execution, and is the id of what the execution creates.
    execution_id uuid        NOT NULL,
    operation    text        COLLATE "C" NOT NULL,
    fingerprint  bytea       NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    -- The key comes first, so that keys that grow with time, as UUIDv7 do, go to one end of the index, however many
    -- accounts send them. With the account first, each account would write to its own place in the index.
    PRIMARY KEY (key, account_id)
);

CREATE TABLE idempotency_responses (
    -- The key's.
    account_id       uuid        NOT NULL,
    execution_id     uuid        NOT NULL,
    status           smallint    NOT NULL CHECK (status BETWEEN 100 AND 599),
    -- 'name: value', one a line.
    headers          text        NOT NULL,
    -- Bytes, not jsonb, so that every replay has the same bytes.
    body             bytea       NOT NULL,
    -- By this database's clock. NULL: as long as the key exists.
    replayable_until timestamptz,
    -- The id comes first: new responses go to one end of the index, and the sweeper reads them in order of time.
    PRIMARY KEY (execution_id, account_id)
);

-- Called inside the statement that claims keys, executes commands and stores their responses, when their numbers
-- differ: the error makes PostgreSQL roll all of it back. So a key, its effect and its response exist together even
-- where a trigger or a command's own INSERT drops rows.
CREATE FUNCTION idempotency_incomplete_batch(commands bigint, keys bigint, effects bigint, responses bigint)
RETURNS uuid[] LANGUAGE plpgsql AS $$
BEGIN
    RAISE 'an incomplete batch was rolled back: % commands, % keys claimed, % rows inserted, % responses stored',
        commands, keys, effects, responses
    USING ERRCODE = 'IK001';
END $$;
