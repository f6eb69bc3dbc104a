//! Health in the description of the API.

use serde_json::{Value, json};

use crate::{
    http::problem::Kind,
    openapi::{
        operation::{Body, Operation, ok},
        part::Part,
        responses::Content::Json,
        schemas::response,
    },
};

pub(crate) const PART: Part = Part {
    operations: &[
        Operation {
            method: "get",
            path: "/health/live",
            tag: "about",
            id: "showLiveness",
            summary: "Check that the process runs",
            description: "This uses no database.",
            parameters: &[],
            body: Body::None,
            successes: &[ok("It runs.", Json("Health"), &[])],
            problems: &[],
        },
        Operation {
            method: "get",
            path: "/health/ready",
            tag: "about",
            id: "showReadiness",
            summary: "Check that requests would be executed",
            description: "The database takes writes, commits durably, and has the schema and the privileges that this \
                          version needs; and the server is not stopping.",
            parameters: &[],
            body: Body::None,
            successes: &[ok("They would.", Json("Health"), &[])],
            problems: &[&[Kind::Internal, Kind::DatabaseUnavailable, Kind::ShuttingDown]],
        },
    ],
    schemas,
    examples,
};

fn schemas() -> Value {
    json!({
        "Health": response(&[], json!({
            "status": { "enum": ["live", "ready"] },
            "version": { "type": "string" }
        }))
    })
}

fn examples() -> Value {
    json!({ "Health": { "status": "ready", "version": env!("CARGO_PKG_VERSION") } })
}
