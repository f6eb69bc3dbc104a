"""`POST /payment` as a Flask application writes it: a pooled connection and one transaction for each request."""

import hashlib
import json
import os
import time
import uuid

from flask import Flask, Response, request
from psycopg_pool import ConnectionPool

ACCOUNT = uuid.UUID(int=0)
# gunicorn.conf.py has as many threads in each worker.
THREADS = 4

app = Flask(__name__)
pool = ConnectionPool(os.environ["DATABASE_URL"], min_size=THREADS, max_size=THREADS, open=True)
pool.wait()


def uuid7():
    """Ids in order of time, as the other servers make them (RFC 9562)."""
    milliseconds = time.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(9), "big") & ~(3 << 62)
    return uuid.UUID(int=milliseconds << 80 | 7 << 76 | 2 << 62 | random)


def respond(status, key, headers, body):
    return Response(body, status, {**headers, "Idempotency-Key": key}, content_type="application/json")


@app.post("/payment")
def create_payment():
    key = request.headers.get("Idempotency-Key")
    if not key:
        return {"error": "Idempotency-Key header is required"}, 400
    payment = request.get_json()
    fingerprint = hashlib.sha256(request.get_data()).digest()
    transaction_id = uuid7()
    body = json.dumps(
        {
            "status": "success",
            "transaction_id": str(transaction_id),
            "user_id": payment["user_id"],
            "amount": payment["amount"],
        }
    ).encode()
    headers = {"Location": f"/payment/{transaction_id}"}
    with pool.connection() as connection:
        claimed = connection.execute(
            "INSERT INTO usual_keys (account_id, key, execution_id, operation, fingerprint)"
            " VALUES (%s, %s, %s, 'pay', %s) ON CONFLICT DO NOTHING",
            (ACCOUNT, key, transaction_id, fingerprint),
        )
        if claimed.rowcount == 0:
            used, headers, body = connection.execute(
                "SELECT fingerprint, headers, body FROM usual_keys WHERE account_id = %s AND key = %s", (ACCOUNT, key)
            ).fetchone()
            if used != fingerprint:
                return {"error": "The key was used with another request"}, 422
            return respond(200, key, json.loads(headers), body)
        connection.execute(
            "INSERT INTO usual_payments (account_id, transaction_id, user_id, amount) VALUES (%s, %s, %s, %s)",
            (ACCOUNT, transaction_id, payment["user_id"], payment["amount"]),
        )
        connection.execute(
            "UPDATE usual_keys SET status = 201, headers = %s, body = %s, replayable_until = now() + interval '1 day'"
            " WHERE account_id = %s AND key = %s",
            (json.dumps(headers), body, ACCOUNT, key),
        )
    return respond(201, key, headers, body)
