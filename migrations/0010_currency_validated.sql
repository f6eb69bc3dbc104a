-- Doesn't keep anybody from reading or writing.
ALTER TABLE payments VALIDATE CONSTRAINT payments_currency_check;
