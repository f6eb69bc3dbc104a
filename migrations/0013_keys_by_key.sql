-- The key before its account, in what is to be the primary key (0014). Keys in order of time, as UUIDv7 are, then
-- go to one place of the index, however many accounts send them. With the account in front each account has a
-- place of its own, and where thousands pay new keys land all over a large index, as random ones do.
--
-- While the index is built no key is used: nothing is paid, refunded or voided, and all of it is refused with 409 or
-- 503 after a while, safe to send again (9 and 14 seconds were measured at thirteen million). With many keys, build it
-- before, while the version before goes on working:
--
--     CREATE UNIQUE INDEX CONCURRENTLY idempotency_keys_by_key ON idempotency_keys (key, account_id);
--
-- This migration then finds it. (Not on a partitioned table, where PostgreSQL builds no index CONCURRENTLY and
-- takes none for a primary key: there 0014 builds it, and no key is looked up meanwhile either.)

DO $$
BEGIN
    -- Without a look at the table, for which it would have to be locked.
    IF to_regclass('idempotency_keys_by_key') IS NULL
       AND NOT EXISTS (SELECT FROM pg_class WHERE oid = 'idempotency_keys'::regclass AND relkind = 'p') THEN
        CREATE UNIQUE INDEX idempotency_keys_by_key ON idempotency_keys (key, account_id);
    END IF;
    IF EXISTS (SELECT FROM pg_index WHERE indexrelid = to_regclass('idempotency_keys_by_key') AND NOT indisvalid) THEN
        RAISE 'idempotency_keys_by_key is invalid: CREATE INDEX CONCURRENTLY was broken off'
        USING HINT = 'DROP INDEX CONCURRENTLY idempotency_keys_by_key, build it again, then migrate again.';
    END IF;
END $$;
