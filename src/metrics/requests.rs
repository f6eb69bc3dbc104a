//! HTTP requests by route, method and status.

use std::time::Duration;

use actix_web::http::{Method, StatusCode};
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};

use super::{SECONDS, registered};

/// The label of paths without a route and of methods that HTTP doesn't define.
const OTHER: &str = "other";

pub(super) struct Requests {
    requests: IntCounterVec,
    durations: HistogramVec,
}

impl Requests {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let requests = Opts::new(
            "payonce_http_requests_total",
            "HTTP requests answered. Paths without a route are other.",
        );
        let durations = HistogramOpts::new(
            "payonce_http_request_duration_seconds",
            "Time from the head of a request to the head of its response.",
        );
        let durations = durations.buckets(SECONDS.to_vec());
        Ok(Self {
            requests: registered(
                registry,
                IntCounterVec::new(requests, &["route", "method", "status"])?,
            )?,
            durations: registered(registry, HistogramVec::new(durations, &["route", "method"])?)?,
        })
    }

    /// Counts a request; `route` is the template that its path matches.
    pub(super) fn count(
        &self,
        route: Option<&str>,
        method: &Method,
        status: StatusCode,
        took: Duration,
    ) {
        let (route, method) = (route.unwrap_or(OTHER), method_label(method));
        self.requests.with_label_values(&[route, method, status.as_str()]).inc();
        self.durations.with_label_values(&[route, method]).observe(took.as_secs_f64());
    }
}

/// Returns a method as labels and log lines name it: clients can make up others.
pub(crate) fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => OTHER,
    }
}
