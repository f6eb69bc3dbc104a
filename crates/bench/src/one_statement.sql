-- The same rows in one statement, which needs no BEGIN, no COMMIT and no second version of the key's row.
\set n :n + 1
\set number random(1000000000000000, 9999999999999999)
\set id 1000000000000000 + :client_id * 1000000000000 + :n
\set user random(1000, 9999)
WITH claimed AS (
    INSERT INTO usual_keys (account_id, key, execution_id, operation, fingerprint, status, headers, body, replayable_until)
    VALUES ('00000000-0000-0000-0000-000000000000', 'a-random-key-of-pgbe' || :number, ('01a20b8ef5ef7000' || :id)::uuid, 'pay', '\x01000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f', 201, E'location: /payment/01a20b8e-f5ef-76cd-ab8e-bedcccfd17b0\n', '{"status":"success","transaction_id":"01a20b8e-f5ef-76cd-ab8e-bedcccfd17b0","user_id":"user_1000","amount":100}', now() + interval '1 day')
    ON CONFLICT DO NOTHING RETURNING execution_id
)
INSERT INTO usual_payments (transaction_id, account_id, user_id, amount)
SELECT execution_id, '00000000-0000-0000-0000-000000000000', 'user_' || :user, 100 FROM claimed;
