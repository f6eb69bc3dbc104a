//! The description and its page in the description itself.

use serde_json::{Value, json};

use super::{
    operation::{Body, Operation, ok},
    part::Part,
    responses::Content::{Json, Text},
};
use crate::http::problem::Kind;

pub(crate) const PART: Part = Part {
    operations: &[
        Operation {
            method: "get",
            path: "/openapi.json",
            tag: "about",
            id: "showDescription",
            summary: "Describe this API, for programs",
            description: "This document, in OpenAPI 3.1.",
            parameters: &[],
            body: Body::None,
            successes: &[ok("The description.", Json("Description"), &[])],
            problems: &[],
        },
        Operation {
            method: "get",
            path: "/docs",
            tag: "about",
            id: "showDocumentation",
            summary: "Describe this API, for people",
            description: "A page to try it on.",
            parameters: &[],
            body: Body::None,
            successes: &[ok("The page.", Text(&["text/html"]), &["Content-Security-Policy"])],
            problems: &[],
        },
        Operation {
            method: "get",
            path: "/docs/{file}",
            tag: "about",
            id: "showDocumentationFile",
            summary: "Get a file of that page",
            description: "Scripts and styles.",
            parameters: &["File"],
            body: Body::None,
            successes: &[ok("The file.", Text(&["text/javascript", "text/css"]), &[])],
            problems: &[&[Kind::NotFound]],
        },
    ],
    schemas,
    examples,
};

fn schemas() -> Value {
    json!({
        "Description": {
            "type": "object", "required": ["openapi", "info", "paths", "components"],
            "properties": {
                "openapi": { "const": "3.1.0" }, "info": { "type": "object" }, "paths": { "type": "object" },
                "components": { "type": "object" }
            }
        },
        "Timestamp": {
            "type": "string", "format": "date-time",
            "description": "RFC 3339 in UTC, to the millisecond, by the database's clock."
        }
    })
}

fn examples() -> Value {
    json!({ "Description": { "openapi": "3.1.0", "info": {}, "paths": {}, "components": {} } })
}
