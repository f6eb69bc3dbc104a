-- Moments, with the index of 0006. Servers of the version before may go on: it serves their statements, too.

-- In the order in which refunds take them, or a refund and this could each wait for the other.
LOCK TABLE payments, refunds IN ACCESS EXCLUSIVE MODE;

ALTER TABLE refunds DROP CONSTRAINT refunds_transaction_id_fkey;
ALTER TABLE payments DROP CONSTRAINT payments_pkey;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_class WHERE oid = 'payments'::regclass AND relkind = 'p') THEN
        ALTER TABLE payments ADD CONSTRAINT payments_pkey PRIMARY KEY (account_id, transaction_id);
    ELSE
        ALTER TABLE payments ADD CONSTRAINT payments_pkey PRIMARY KEY USING INDEX payments_by_id;
    END IF;
END $$;

DROP INDEX payments_by_account;

-- From now on; 0008 goes through the refunds that are there, while payments don't wait.
ALTER TABLE refunds
    ADD CONSTRAINT refunds_payment_fkey FOREIGN KEY (account_id, transaction_id) REFERENCES payments NOT VALID;
