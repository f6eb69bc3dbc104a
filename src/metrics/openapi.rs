//! Metrics in the description of the API.

use crate::{
    http::problem::Kind,
    openapi::{
        operation::{Body, Operation, ok},
        part::{Part, nothing},
        responses::Content::Text,
    },
};

pub(crate) const PART: Part = Part {
    operations: &[Operation {
        method: "get",
        path: "/metrics",
        tag: "about",
        id: "showMetrics",
        summary: "Get the metrics, for Prometheus",
        description: "For programs on the server's own machine until the first API key is created, or with \
                      `METRICS_TOKEN` as bearer token. Not here if `METRICS_ADDRESS` is set.",
        parameters: &[],
        body: Body::None,
        successes: &[ok("Prometheus' text format.", Text(&["text/plain"]), &[])],
        problems: &[&[Kind::Unauthorized, Kind::NotFound, Kind::Internal]],
    }],
    schemas: nothing,
    examples: nothing,
};
