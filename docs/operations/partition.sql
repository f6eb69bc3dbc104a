-- Splits payonce's large tables by hash, each over its primary key. Run it while no server runs, as the owner of the tables:
--
--   psql "$DATABASE_URL" -c "SET payonce.partitions = 8" -f docs/operations/partition.sql
--
-- No statement of payonce changes. A unique constraint of a partitioned table must contain the columns that split the
-- table, and the guarantees rest on the primary keys, so each table is split by its primary key.
--
-- Rights are not kept: where deploy/server-role.sql was used, run it again afterwards.
--
-- Indexes and constraints keep their names and partitions get the table's storage parameters, so that later migrations find
-- what they look for. Rows are copied, in one transaction: for a large database rather partition before it is filled.

DO $$
DECLARE
    partitions CONSTANT int := current_setting('payonce.partitions');
    tables CONSTANT text[] := ARRAY['idempotency_keys', 'idempotency_responses', 'payments'];
    name text;
    plain text;
    columns text;
    storage text;
    built text[];
    statement text;
    reference record;
    references_to jsonb := '[]';
BEGIN
    FOREACH name IN ARRAY tables LOOP
        plain := name || '_plain';
        SELECT string_agg(quote_ident(attname), ', ' ORDER BY place) INTO STRICT columns
        FROM pg_constraint CROSS JOIN LATERAL unnest(conkey) WITH ORDINALITY AS key(attnum, place)
        JOIN pg_attribute ON attrelid = conrelid AND pg_attribute.attnum = key.attnum
        WHERE conrelid = name::regclass AND contype = 'p';

        SELECT coalesce('WITH (' || array_to_string(reloptions, ', ') || ')', '') INTO STRICT storage
        FROM pg_class WHERE oid = name::regclass;

        -- Built by statements of their own, once their names are free again. LIKE gives them others.
        SELECT array_agg(
                   CASE WHEN conname IS NULL THEN pg_get_indexdef(indexrelid)
                   ELSE format('ALTER TABLE %I ADD CONSTRAINT %I %s', name, conname, pg_get_constraintdef(pg_constraint.oid))
                   END
               ) INTO STRICT built
        FROM pg_index LEFT JOIN pg_constraint ON conindid = indexrelid AND conrelid = indrelid
        WHERE indrelid = name::regclass;

        -- Foreign keys, of this table and to it, are put back when all tables are there. LIKE doesn't copy them.
        FOR reference IN
            SELECT conrelid::regclass::text AS of_table, conname, pg_get_constraintdef(oid) AS definition
            FROM pg_constraint
            WHERE contype = 'f' AND name::regclass IN (conrelid, confrelid)
        LOOP
            references_to := references_to || to_jsonb(reference);
            EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', reference.of_table, reference.conname);
        END LOOP;

        EXECUTE format('ALTER TABLE %I RENAME TO %I', name, plain);
        EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL EXCLUDING INDEXES) PARTITION BY HASH (%s)', name, plain, columns);
        FOR remainder IN 0 .. partitions - 1 LOOP
            EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES WITH (MODULUS %s, REMAINDER %s) %s',
                           name || '_' || remainder, name, partitions, remainder, storage);
        END LOOP;
        EXECUTE format('INSERT INTO %I SELECT * FROM %I', name, plain);
        EXECUTE format('DROP TABLE %I', plain);
        FOREACH statement IN ARRAY built LOOP
            EXECUTE statement;
        END LOOP;
    END LOOP;

    FOR reference IN SELECT * FROM jsonb_to_recordset(references_to) AS r(of_table text, conname text, definition text) LOOP
        EXECUTE format('ALTER TABLE %s ADD CONSTRAINT %I %s', reference.of_table, reference.conname, reference.definition);
    END LOOP;
END
$$;
