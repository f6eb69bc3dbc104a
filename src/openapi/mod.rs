//! The description of the API for programs and people: `GET /openapi.json` (OpenAPI 3.1), and `GET /docs`, a page
//! on which it can be tried.
//!
//! The description stands beside the handlers, not on them: they read requests field by field, and respond
//! with stored bytes, so there are no types that a macro could look at. Bounds are the constants that keep
//! them, and problems come from their table. A new route gets an entry in `operations`, and what is new in
//! its bodies one in `schemas`: tests/http/openapi/document.rs misses both, and scripts/contract-tests sends what
//! is described and checks the responses against it.

use std::sync::LazyLock;

use actix_web::{HttpResponse, http::header};
use serde_json::{Value, json};

pub(crate) mod operation;
pub(crate) mod own;
pub mod page;
mod parameters;
pub(crate) mod part;
pub(crate) mod responses;
pub(crate) mod schemas;

/// The description: the same at every server of this version, whatever its settings.
static OPENAPI: LazyLock<String> = LazyLock::new(|| format!("{:#}\n", openapi()));

/// `GET /openapi.json`: the description.
pub async fn show() -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, "application/json"))
        .insert_header((header::CACHE_CONTROL, "max-age=3600"))
        .body(OPENAPI.as_str())
}

const ABOUT: &str = "\
Name each payment that you intend with an `Idempotency-Key`, and send the request as \
often as you like: one payment is created, and every duplicate of the request gets the same response.

A client needs three rules. **No response, `5xx`, `408`, `409` or `429`: the same request with the same key again, \
after `Retry-After`. `2xx`: done. Anything else: a person, or a corrected request.** The field `retry` of a problem \
says which.

- `HEAD` works wherever `GET` does. Other methods of a path are `405 method-not-allowed`, with `Allow`; other paths \
are `404 not-found`.
- A request with a key is checked in this order: caller, media type and size, key, body, and then the stored state of \
the key. A refusal before that last check does not use the key.
- Responses may get new fields: ignore unknown ones.
- The paths `/health/…`, `/problems/…`, `/idempotency-policy`, `/openapi.json` and `/docs` need no API key. All others \
do, except for anonymous calls to an installation that has never had a key.";

fn openapi() -> Value {
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "payonce",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "Creates payments exactly once",
            "description": ABOUT,
            "contact": { "name": "The operator of this server" },
            "license": { "name": "MIT OR Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0" }
        },
        "servers": [{ "url": "/" }],
        "tags": [
            { "name": "payments", "description": "Create, refund and read payments." },
            { "name": "events", "description": "Read what happened, in order and without gaps." },
            { "name": "webhooks", "description": "URLs that events are sent to." },
            { "name": "keys", "description": "Look up and void keys." },
            { "name": "about", "description": "This server: its rules, its health, its description." }
        ],
        "paths": operation::paths(),
        "components": {
            "schemas": schemas::schemas(),
            "parameters": parameters::parameters(),
            "headers": responses::headers(),
            "responses": responses::shared(),
            "examples": responses::problem_examples(),
            "securitySchemes": {
                "api_key": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "payonce_…",
                    "description": "An API key, which `payonce api-key create` makes. Calls without one are accepted only \
                                    while an installation has never had one, and by default only on its own machine."
                },
                "metrics_token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The server's `METRICS_TOKEN`. Without one, programs on the server's own machine need none."
                }
            }
        }
    })
}
