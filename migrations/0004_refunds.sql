-- What was given back of payments.
--
-- Nothing here reads or rewrites payments: columns with a constant default are a matter of the
-- catalogue, and the constraints are checked from now on (0005 goes through the rows that are there).
-- Servers of the version before may go on: what they insert has nothing refunded.

ALTER TABLE payments
    -- The sum of its refunds, in minor units. Kept here so that the row that refunds of one payment
    -- wait for is also the row that says what is left.
    ADD COLUMN refunded     bigint   NOT NULL DEFAULT 0,
    -- How many refunds that is: what a client can make grow has a limit.
    ADD COLUMN refund_count smallint NOT NULL DEFAULT 0,
    -- The last judge. The program never tries it.
    ADD CONSTRAINT payments_refunded_check CHECK (refunded BETWEEN 0 AND amount) NOT VALID,
    ADD CONSTRAINT payments_refund_count_check CHECK (refund_count BETWEEN 0 AND 100) NOT VALID;

-- Room on each page for the new version of one payment in twenty, so that refunding it touches no index.
-- Where payments is partitioned, it is the partitions that have pages.
DO $$
DECLARE
    leaf regclass;
BEGIN
    FOR leaf IN
        SELECT oid FROM pg_class
        WHERE relkind = 'r'
          AND (oid = 'payments'::regclass OR oid IN (SELECT relid FROM pg_partition_tree('payments')))
    LOOP
        EXECUTE format('ALTER TABLE %s SET (fillfactor = 95)', leaf);
    END LOOP;
END $$;

CREATE TABLE refunds (
    -- The execution_id of the idempotency key that gave it back.
    refund_id      uuid        PRIMARY KEY,
    transaction_id uuid        NOT NULL REFERENCES payments,
    -- The payment's.
    account_id     uuid        NOT NULL,
    -- Minor units of the payment's currency.
    amount         bigint      NOT NULL CHECK (amount BETWEEN 1 AND 9007199254740991),
    created_at     timestamptz NOT NULL DEFAULT now()
);

-- A payment is shown with its refunds, in their order.
CREATE INDEX refunds_by_payment ON refunds (transaction_id, refund_id);
