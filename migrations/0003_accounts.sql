-- Whose payments are whose, and by what a caller shows whose it is.
--
-- Neither payments nor idempotency_keys refers to these tables: a foreign key would look an account up
-- and lock its row for every payment, and all payments of an account would meet at that row. No account
-- is ever deleted, and what is inserted with an account's id has passed its API key.

CREATE TABLE accounts (
    account_id uuid        PRIMARY KEY,
    -- COLLATE "C", as everywhere: other orders change with the operating system, and unique indexes with them.
    name       text        COLLATE "C" NOT NULL UNIQUE CHECK (char_length(name) BETWEEN 1 AND 100),
    created_at timestamptz NOT NULL DEFAULT now()
);

-- Whose everything is that was taken before there were accounts, and by anonymous calls.
INSERT INTO accounts (account_id, name) VALUES ('00000000-0000-0000-0000-000000000000', 'default');

CREATE TABLE api_keys (
    api_key_id   uuid        PRIMARY KEY,
    account_id   uuid        NOT NULL REFERENCES accounts,
    name         text        NOT NULL CHECK (char_length(name) BETWEEN 1 AND 100),
    -- SHA-256 of the key. With 256 random bits in it there is nothing to guess, and nothing to salt.
    hash         bytea       NOT NULL UNIQUE CHECK (octet_length(hash) = 32),
    -- The key's last four characters, by which people tell keys apart.
    ending       text        NOT NULL CHECK (char_length(ending) = 4),
    created_at   timestamptz NOT NULL DEFAULT now(),
    -- To the minute.
    last_used_at timestamptz,
    -- NULL: it is valid.
    revoked_at   timestamptz
);

-- How often API keys were added, changed or revoked, by payonce or by hand. Servers look at this one row
-- to know whether they have to read api_keys again, and it says for good that there has been a key.
CREATE TABLE api_key_changes (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    changes  bigint  NOT NULL
);
INSERT INTO api_key_changes (changes) VALUES (0);

CREATE FUNCTION count_api_key_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE api_key_changes SET changes = changes + 1;
    RETURN NULL;
END
$$;

-- Not for last_used_at.
CREATE TRIGGER api_key_changes
    AFTER INSERT OR DELETE OR TRUNCATE OR UPDATE OF account_id, hash, revoked_at ON api_keys
    FOR EACH STATEMENT EXECUTE FUNCTION count_api_key_change();
