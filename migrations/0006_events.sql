-- The events of each account, in runs: each run has consecutive positions. Their bodies are not stored, because they
-- hold only facts that never change, which are read from payments and refunds.
CREATE TABLE event_runs (
    account_id     uuid        NOT NULL,
    -- Positions of an account begin at 1 and have no gap.
    first_position bigint      NOT NULL CHECK (first_position > 0),
    -- The form of the bodies. A program that changes the form writes runs of a new version, and still renders old ones.
    version        smallint    NOT NULL,
    -- One type for all events, or one for each.
    types          smallint[]  NOT NULL,
    -- The ids of the executions, which are those of the payments and refunds.
    subjects       uuid[]      NOT NULL CHECK (cardinality(subjects) BETWEEN 1 AND 100),
    -- The time of the transaction that executed them.
    at             timestamptz NOT NULL,
    PRIMARY KEY (account_id, first_position)
);
CREATE TABLE event_feed (
    only_row       boolean     PRIMARY KEY DEFAULT true CHECK (only_row),
    -- Changes when positions may have begun anew, as after a restored dump.
    feed_id        uuid        NOT NULL DEFAULT gen_random_uuid(),
    -- False while servers run with EVENTS=off.
    announcing     boolean     NOT NULL DEFAULT true,
    -- What was executed earlier may have no event. NULL: everything has one.
    complete_since timestamptz
);
INSERT INTO event_feed (complete_since) VALUES (CASE WHEN EXISTS (SELECT FROM payments) THEN now() END);

-- What the event of a refund says about its payment. NULL for refunds of programs without events, until
-- `payonce events backfill`.
ALTER TABLE refunds
    -- The sum of the payment's refunds, with this one.
    ADD COLUMN refunded_after bigint CHECK (refunded_after >= amount),
    -- The number of this refund among those of its payment, from 1.
    ADD COLUMN ordinal smallint CHECK (ordinal > 0);
