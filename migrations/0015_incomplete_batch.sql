-- Raised inside the statement that claims keys, executes commands and stores their responses: PostgreSQL then rolls
-- all of it back. So a key, its effect and its response exist together even where a trigger or a command's own INSERT
-- keeps rows out.

CREATE FUNCTION idempotency_incomplete_batch(commands bigint, keys bigint, effects bigint, responses bigint)
RETURNS uuid[] LANGUAGE plpgsql AS $$
BEGIN
    RAISE 'an incomplete batch was rolled back: % commands, % keys claimed, % rows inserted, % responses stored',
        commands, keys, effects, responses
    USING ERRCODE = 'IK001';
END $$;
