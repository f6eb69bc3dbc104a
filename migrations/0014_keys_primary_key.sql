-- Moments, with the index of 0013. Servers of the version before may go on: it serves their statements, too, but for
-- their walk through all keys where these expire (IDEMPOTENCY_KEY_TTL), each page of which reads the whole index. With
-- many such keys, start them with SWEEP_INTERVAL=never before.

LOCK TABLE idempotency_keys IN ACCESS EXCLUSIVE MODE;

ALTER TABLE idempotency_keys DROP CONSTRAINT idempotency_keys_pkey;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_class WHERE oid = 'idempotency_keys'::regclass AND relkind = 'p') THEN
        ALTER TABLE idempotency_keys ADD CONSTRAINT idempotency_keys_pkey PRIMARY KEY (key, account_id);
        -- Of a table that was partitioned when it had been built.
        DROP INDEX IF EXISTS idempotency_keys_by_key;
    ELSE
        ALTER TABLE idempotency_keys ADD CONSTRAINT idempotency_keys_pkey PRIMARY KEY USING INDEX idempotency_keys_by_key;
    END IF;
END $$;
