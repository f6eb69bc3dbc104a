"""Rules for requests that JSON Schema cannot express."""

import uuid

import schemathesis
from schemathesis import GenerationMode


@schemathesis.hook
def map_body(context, body):
    """JSON Schema takes 100.0 for an integer; payonce refuses it as an amount."""
    if isinstance(body, dict):
        amount = body.get("amount")
        if isinstance(amount, float) and amount.is_integer():
            return {**body, "amount": int(amount)}
    return body


@schemathesis.hook
def before_call(context, case, kwargs):
    """A valid request that executes something needs an unused key."""
    valid = case.meta is not None and case.meta.generation.mode == GenerationMode.POSITIVE
    if valid and case.method == "POST" and "Idempotency-Key" in case.headers:
        case.headers["Idempotency-Key"] = str(uuid.uuid4())
