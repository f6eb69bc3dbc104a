-- What lists of payments are read by, newest first: all of an account's, or those of one user of it.
--
-- Building an index keeps payments from being taken meanwhile (they wait, and are then refused with 409
-- or 503, safe to send again): 4 and 9 seconds were measured at ten million payments. To upgrade a large
-- table without that, build both before, with these very names, while the version before goes on working:
--
--     CREATE INDEX CONCURRENTLY payments_by_account ON payments (account_id, transaction_id);
--     CREATE INDEX CONCURRENTLY payments_by_user
--         ON payments (uuid_hash_extended(account_id, hashtextextended(user_id, 0)), transaction_id);
--
-- This migration then finds them and is done in a moment. It doesn't build them so itself, since that
-- can't be part of a transaction: broken off, or at odds with a second server that migrates, it would
-- leave an index behind that is there and never used. (Nor does PostgreSQL build them so on a partitioned
-- table, but on each partition: then CREATE INDEX on the table finds those.)

-- Doesn't keep anybody from reading or writing.
ALTER TABLE payments VALIDATE CONSTRAINT payments_refunded_check;
ALTER TABLE payments VALIDATE CONSTRAINT payments_refund_count_check;

CREATE INDEX IF NOT EXISTS payments_by_account ON payments (account_id, transaction_id);

-- By a hash of account and user. Unlike the others this index grows all over, so its size is what taking
-- a payment costs: eight bytes instead of sixteen and up to a thousand. And no text in it, which an
-- upgrade of the operating system could reorder.
CREATE INDEX IF NOT EXISTS payments_by_user
    ON payments (uuid_hash_extended(account_id, hashtextextended(user_id, 0)), transaction_id);

DO $$
BEGIN
    IF EXISTS (
        SELECT FROM pg_index
        WHERE indexrelid IN ('payments_by_account'::regclass, 'payments_by_user'::regclass) AND NOT indisvalid
    ) THEN
        RAISE 'an index of payments is invalid: CREATE INDEX CONCURRENTLY was broken off'
        USING HINT = 'DROP INDEX CONCURRENTLY the invalid one, build it again, then migrate again.';
    END IF;
END $$;
