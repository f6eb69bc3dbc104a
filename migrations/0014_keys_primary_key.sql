-- Moments, with the index of 0013. Servers of the version before may go on: it serves their statements, too, but for
-- their walk through all keys where keys expire, which may take too long and is then made by a new one.

LOCK TABLE idempotency_keys IN ACCESS EXCLUSIVE MODE;

ALTER TABLE idempotency_keys DROP CONSTRAINT idempotency_keys_pkey;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_class WHERE oid = 'idempotency_keys'::regclass AND relkind = 'p') THEN
        ALTER TABLE idempotency_keys ADD CONSTRAINT idempotency_keys_pkey PRIMARY KEY (key, account_id);
    ELSE
        ALTER TABLE idempotency_keys ADD CONSTRAINT idempotency_keys_pkey PRIMARY KEY USING INDEX idempotency_keys_by_key;
    END IF;
END $$;
