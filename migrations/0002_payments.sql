CREATE TABLE payments (
    -- The execution_id of the idempotency key that took it.
    transaction_id uuid        PRIMARY KEY,
    account_id     uuid        NOT NULL,
    user_id        text        NOT NULL CHECK (char_length(user_id) BETWEEN 1 AND 255),
    -- Minor units; at most 2^53 - 1, so that no JSON client loses a digit.
    amount         bigint      NOT NULL CHECK (amount BETWEEN 1 AND 9007199254740991),
    -- Requests don't name a currency yet: until they do, everything is in this one.
    currency       text        COLLATE "C" NOT NULL DEFAULT 'USD' CHECK (currency ~ '^[A-Z]{3}$'),
    status         text        COLLATE "C" NOT NULL DEFAULT 'success' CHECK (status = 'success'),
    created_at     timestamptz NOT NULL DEFAULT now()
);
