"""Rules for requests that JSON Schema cannot express."""

import uuid

import schemathesis
from schemathesis import GenerationMode


@schemathesis.hook
def map_body(context, body):
    """JSON Schema takes 100.0 for an integer; payonce refuses it as an amount or a position."""
    if isinstance(body, dict):
        for name in ("amount", "from", "to"):
            number = body.get(name)
            if isinstance(number, float) and number.is_integer():
                body = {**body, name: int(number)}
    return body


@schemathesis.hook
def before_call(context, case, kwargs):
    """A valid request that executes something needs an unused key."""
    valid = case.meta is not None and case.meta.generation.mode == GenerationMode.POSITIVE
    if valid and case.method == "POST" and "Idempotency-Key" in case.headers:
        case.headers["Idempotency-Key"] = str(uuid.uuid4())
    # The schema can't say that a host resolves. Nothing listens there.
    if valid and isinstance(case.body, dict) and "url" in case.body:
        case.body["url"] = "http://127.0.0.1:9/"
