-- Accounts own payments; API keys identify the account that a request acts for.
--
-- Neither payments nor idempotency_keys has a foreign key to accounts: it would look up and lock the account's row for
-- every payment, and all payments of an account would contend for that row. Accounts are never deleted, and rows are
-- inserted only for an account whose API key was verified.

CREATE TABLE accounts (
    account_id uuid        PRIMARY KEY,
    -- COLLATE "C", because an upgrade of the operating system can reorder a unique index under any other collation.
    name       text        COLLATE "C" NOT NULL UNIQUE CHECK (char_length(name) BETWEEN 1 AND 100),
    created_at timestamptz NOT NULL DEFAULT now()
);

-- The account of anonymous requests.
INSERT INTO accounts (account_id, name) VALUES ('00000000-0000-0000-0000-000000000000', 'default');

CREATE TABLE api_keys (
    api_key_id   uuid        PRIMARY KEY,
    account_id   uuid        NOT NULL REFERENCES accounts,
    name         text        NOT NULL CHECK (char_length(name) BETWEEN 1 AND 100),
    -- SHA-256 of the key. The key has 256 random bits, so the hash needs no salt.
    hash         bytea       NOT NULL UNIQUE CHECK (octet_length(hash) = 32),
    -- The key's last four characters, for people to tell keys apart.
    ending       text        NOT NULL CHECK (char_length(ending) = 4),
    created_at   timestamptz NOT NULL DEFAULT now(),
    -- To the minute.
    last_used_at timestamptz,
    -- NULL: the key is valid.
    revoked_at   timestamptz
);

-- Counts changes of api_keys, by payonce or by hand. Servers read this one row to learn whether to read api_keys again.
-- Once it is above zero, anonymous requests are refused permanently.
CREATE TABLE api_key_changes (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    changes  bigint  NOT NULL
);
INSERT INTO api_key_changes (changes) VALUES (0);

CREATE FUNCTION count_api_key_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- The count begins with the first API key: a statement that changes no row, such as revoking a mistyped id, must
    -- not end anonymous requests. After that, such a statement only makes servers read api_keys once more.
    UPDATE api_key_changes SET changes = changes + 1 WHERE changes > 0 OR EXISTS (SELECT FROM api_keys);
    RETURN NULL;
END
$$;

-- Updates of last_used_at are not counted.
CREATE TRIGGER api_key_changes
    AFTER INSERT OR DELETE OR TRUNCATE OR UPDATE OF account_id, hash, revoked_at ON api_keys
    FOR EACH STATEMENT EXECUTE FUNCTION count_api_key_change();
-- In sessions with session_replication_role = replica, too. Logical replication fires no statement trigger: therefore servers
-- also read all keys again every few seconds.
ALTER TABLE api_keys ENABLE ALWAYS TRIGGER api_key_changes;
