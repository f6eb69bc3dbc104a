"""What requests have to be that JSON Schema can't say."""

import uuid

import schemathesis
from schemathesis import GenerationMode


@schemathesis.hook
def map_body(context, body):
    """To JSON Schema, 100.0 is an integer. To payonce it is not an amount."""
    if isinstance(body, dict):
        amount = body.get("amount")
        if isinstance(amount, float) and amount.is_integer():
            return {**body, "amount": int(amount)}
    return body


@schemathesis.hook
def before_call(context, case, kwargs):
    """A valid request to execute something has a key that nobody has used."""
    valid = case.meta is not None and case.meta.generation.mode == GenerationMode.POSITIVE
    if valid and case.method == "POST" and "Idempotency-Key" in case.headers:
        case.headers["Idempotency-Key"] = str(uuid.uuid4())
