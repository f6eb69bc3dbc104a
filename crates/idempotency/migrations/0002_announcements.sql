-- The executions of each transaction, for a reader that passes them on and deletes the row. Ids have the order in which
-- the executions were decided: the last statement before COMMIT draws the id, when the transaction holds all its locks.
CREATE TABLE announcements (
    id            bigint      GENERATED ALWAYS AS IDENTITY,
    -- The transaction. A reader that knows the snapshot of its last look finds what that look could not see.
    xid           xid8        NOT NULL DEFAULT pg_current_xact_id(),
    at            timestamptz NOT NULL DEFAULT now(),
    -- Parallel arrays, except that an array of one value means this value for all executions.
    account_ids   uuid[]      NOT NULL,
    execution_ids uuid[]      NOT NULL,
    types         smallint[]  NOT NULL
);
CREATE INDEX announcements_by_xid ON announcements (xid);

-- Called inside the statement that also executes the commands, if a trigger dropped its announcement: the error makes
-- PostgreSQL roll all of it back.
CREATE FUNCTION idempotency_unannounced_batch() RETURNS uuid[] LANGUAGE plpgsql AS $$
BEGIN
    RAISE 'a batch without its announcement was rolled back' USING ERRCODE = 'IK002';
END $$;
