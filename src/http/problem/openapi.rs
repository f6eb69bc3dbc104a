//! Problems in the description of the API.

use serde_json::{Value, json};

use super::{Kind, Retry};
use crate::{
    openapi::{
        operation::{Body, Operation, ok},
        part::{Part, nothing},
        responses::Content::Text,
        schemas::{reference, response, text},
    },
    payments::money::Amount,
};

pub(crate) const PART: Part = Part {
    operations: &[
        Operation {
            method: "get",
            path: "/problems",
            tag: "about",
            id: "listProblems",
            summary: "List the problems, for people",
            description: "Each has a page of its own.",
            parameters: &[],
            body: Body::None,
            successes: &[ok("A page.", Text(&["text/html"]), &["Content-Security-Policy"])],
            problems: &[],
        },
        Operation {
            method: "get",
            path: "/problems/{code}",
            tag: "about",
            id: "showProblem",
            summary: "Explain a problem, for people",
            description: "The page that the `type` of a problem names.",
            parameters: &["Code"],
            body: Body::None,
            successes: &[ok("A page.", Text(&["text/html"]), &["Content-Security-Policy"])],
            problems: &[&[Kind::NotFound]],
        },
    ],
    schemas,
    examples: nothing,
};

/// Fields that only some problems have.
const OPTIONAL: [&str; 6] =
    ["errors", "members", "refundable", "oldest_position", "last_position", "feed"];

fn schemas() -> Value {
    let codes: Vec<&str> = Kind::ALL.iter().map(|kind| kind.entry().code).collect();
    json!({
        "Problem": response(&OPTIONAL, json!({
            "type": {
                "type": "string", "format": "uri-reference", "pattern": "^/problems/[a-z-]+$",
                "description": "A page for people."
            },
            "title": text("The problem in a few words."),
            "status": { "type": "integer", "minimum": 400, "maximum": 599 },
            "detail": text("What to do."),
            "instance": {
                "type": "string", "format": "uri", "pattern": "^urn:uuid:[0-9a-f-]{36}$",
                "description": "The `request_id` in the server's log. In a stored refusal, the execution that was refused."
            },
            "code": { "type": "string", "enum": codes, "description": "For programs." },
            "error": text("The title again, for simple clients."),
            "retry": {
                "enum": [Retry::SameRequest, Retry::CorrectedRequest, Retry::NewKey, Retry::None],
                "description": "What to send next. `same_request`: the same, with the same key, after `Retry-After`. \
                                `corrected_request`: a corrected one, with the same key; this one executed nothing. \
                                `new_key`: another one with a new key; this key never creates anything. `none`: nothing; a \
                                retry gets the same response."
            },
            "errors": {
                "type": "array", "minItems": 1, "items": reference("FieldError"),
                "description": "All errors in the body or the query."
            },
            "members": {
                "type": "array", "minItems": 1, "items": { "type": "string" },
                "description": "The fields that differ from the request that used the key."
            },
            "refundable": {
                "type": "integer", "format": "int64", "minimum": 0, "maximum": Amount::MAX,
                "description": "The amount that was left to refund."
            },
            "oldest_position": {
                "allOf": [reference("Position")],
                "description": "The oldest event that is kept after the position that was sent."
            },
            "last_position": {
                "allOf": [reference("Position")],
                "description": "The newest event."
            },
            "feed": reference("Feed")
        })),
        "FieldError": response(&[], json!({
            "pointer": text("The field or parameter (JSON Pointer, RFC 6901); empty for the whole."),
            "detail": text("The expectation.")
        }))
    })
}
