-- Doesn't keep anybody from reading or writing.
ALTER TABLE refunds VALIDATE CONSTRAINT refunds_payment_fkey;
