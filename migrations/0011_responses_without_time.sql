-- Nobody reads it, each answer paid for it, and execution_id says when it was (UUIDv7). A matter of the
-- catalogue. Servers of the version before may go on: they don't name it.

ALTER TABLE idempotency_responses DROP COLUMN created_at;
