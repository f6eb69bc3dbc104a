CREATE TABLE refunds (
    -- The execution_id of the idempotency key that created the refund.
    refund_id      uuid        NOT NULL,
    transaction_id uuid        NOT NULL,
    -- The payment's.
    account_id     uuid        NOT NULL,
    -- Minor units of the payment's currency.
    amount         bigint      NOT NULL CHECK (amount BETWEEN 1 AND 9007199254740991),
    created_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account_id, refund_id),
    CONSTRAINT refunds_payment_fkey FOREIGN KEY (account_id, transaction_id) REFERENCES payments
);

-- A payment is shown with its refunds, oldest first.
CREATE INDEX refunds_by_payment ON refunds (account_id, transaction_id, refund_id);
