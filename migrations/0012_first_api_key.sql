-- Counting begins with the first API key that is there. A statement that concerned no row, as revoking an id
-- with a slip in it, counted too, and ended anonymous calls for good where there had never been a key.
--
-- Replaces one function, and locks no table. Servers of the version before may go on.

CREATE OR REPLACE FUNCTION count_api_key_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- Afterwards such a statement has servers read the keys once more, and that is all.
    UPDATE api_key_changes SET changes = changes + 1 WHERE changes > 0 OR EXISTS (SELECT FROM api_keys);
    RETURN NULL;
END
$$;
