-- The usual design's tables: one row holds the key and later its response. Columns, types, constraints and indexes are
-- those of payonce's tables, so that both store the same.

CREATE TABLE usual_keys (LIKE idempotency_keys INCLUDING ALL);
ALTER TABLE usual_keys
    ADD COLUMN status smallint,
    ADD COLUMN headers text,
    ADD COLUMN body bytea,
    ADD COLUMN replayable_until timestamptz;
CREATE TABLE usual_payments (LIKE payments INCLUDING ALL);
