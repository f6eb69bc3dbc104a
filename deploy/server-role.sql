-- Rights of a server that does not migrate (AUTO_MIGRATE=false). It cannot delete payments or refunds, change an amount,
-- free a key or create an API key. Run this after payonce migrate, as the role that ran it:
--
--     CREATE ROLE payonce_server LOGIN PASSWORD '…';
--     psql -v ON_ERROR_STOP=1 -f deploy/server-role.sql payonce
--
-- Run it again after an upgrade with migrations, and after docs/operations/partition.sql, which creates the tables anew.
-- payonce account, api-key and migrate need the owner's role.

-- In whatever schema the owner's tables are. Where that is not public, the server's role needs the same search_path:
-- ALTER ROLE payonce_server SET search_path = ….
DO $$
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA %s TO payonce_server',
        (SELECT relnamespace::regnamespace FROM pg_class WHERE oid = 'idempotency_keys'::regclass));
END
$$;
GRANT SELECT ON _sqlx_migrations, accounts, api_keys, api_key_changes TO payonce_server;
-- The time an API key was last used.
GRANT UPDATE (last_used_at) ON api_keys TO payonce_server;

GRANT SELECT, INSERT ON idempotency_keys, idempotency_responses, payments, refunds TO payonce_server;
-- They roll back a batch that is incomplete. Every role may call them, unless the database's default privileges say
-- otherwise.
GRANT EXECUTE ON FUNCTION idempotency_incomplete_batch, idempotency_unannounced_batch TO payonce_server;
-- The events of each transaction. The server deletes what it has passed on.
GRANT SELECT, INSERT, DELETE ON announcements TO payonce_server;
-- The sum and the number of a payment's refunds.
GRANT UPDATE (refunded, refund_count) ON payments TO payonce_server;
-- Expired responses.
GRANT DELETE ON idempotency_responses TO payonce_server;
-- The feed of events.
GRANT SELECT, INSERT, DELETE ON event_runs TO payonce_server;
GRANT SELECT, UPDATE (announcing, complete_since) ON event_feed TO payonce_server;
-- Webhook endpoints, and how far their deliveries got.
GRANT SELECT, INSERT, UPDATE, DELETE ON webhook_endpoints, webhook_progress, webhook_failures TO payonce_server;
-- Only with IDEMPOTENCY_KEY_TTL, for expired keys. Without it only the owner can free a key.
-- GRANT DELETE ON idempotency_keys TO payonce_server;
