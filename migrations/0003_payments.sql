CREATE TABLE payments (
    -- The execution_id of the idempotency key that created the payment.
    transaction_id uuid        NOT NULL,
    account_id     uuid        NOT NULL,
    user_id        text        NOT NULL CHECK (char_length(user_id) BETWEEN 1 AND 255),
    -- Minor units; at most 2^53 - 1, so that no JSON client loses a digit.
    amount         bigint      NOT NULL CHECK (amount BETWEEN 1 AND 9007199254740991),
    -- The program inserts only codes of ISO 4217. A regular expression here would cost measurable time per payment.
    currency       text        COLLATE "C" NOT NULL DEFAULT 'USD'
                               CHECK (octet_length(currency) = 3 AND currency BETWEEN 'AAA' AND 'ZZZ'),
    status         text        COLLATE "C" NOT NULL DEFAULT 'success' CHECK (status = 'success'),
    created_at     timestamptz NOT NULL DEFAULT now(),
    -- The sum of the payment's refunds, in minor units. Concurrent refunds of a payment lock this row, and it says what
    -- is left to refund. The program does not rely on the two checks.
    refunded       bigint      NOT NULL DEFAULT 0
                               CONSTRAINT payments_refunded_check CHECK (refunded BETWEEN 0 AND amount),
    -- A payment takes at most 100 refunds, so that a client cannot make its response grow without limit.
    refund_count   smallint    NOT NULL DEFAULT 0 CHECK (refund_count BETWEEN 0 AND 100),
    PRIMARY KEY (account_id, transaction_id)
)
-- Each page keeps room for the new version of one payment in twenty, so that a refund changes no index.
WITH (fillfactor = 95);

-- For lists of one user's payments. It holds a hash of account and user, eight bytes instead of up to a thousand:
-- this index is written all over, unlike the others, so its size decides what a payment costs. It also holds no text,
-- which an upgrade of the operating system could reorder.
CREATE INDEX payments_by_user
    ON payments (uuid_hash_extended(account_id, hashtextextended(user_id, 0)), transaction_id);
