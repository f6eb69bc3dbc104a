//! HTTP requests by route, method and status.

use std::{cell::RefCell, collections::HashMap, time::Duration};

use actix_web::http::Method;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry,
};

use super::{SECONDS, registered};

/// What stands for every path that no route takes, and every method that HTTP doesn't have.
const OTHER: &str = "other";

#[derive(Clone)]
pub(super) struct Families {
    requests: IntCounterVec,
    durations: HistogramVec,
}

impl Families {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let requests = Opts::new(
            "payonce_http_requests_total",
            "HTTP requests answered; paths that no route takes are other.",
        );
        let durations = HistogramOpts::new(
            "payonce_http_request_duration_seconds",
            "From a request's head to its answer's.",
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
}

type ByRoute = HashMap<String, (IntCounter, Histogram)>;

/// What one thread counts its requests with: what it has looked up once it finds again without a lock.
pub(super) struct Requests {
    families: Families,
    known: RefCell<HashMap<(&'static str, u16), ByRoute>>,
}

impl Requests {
    pub(super) fn new(families: Families) -> Self {
        Self { families, known: RefCell::default() }
    }

    /// Counts a request that was answered; `route` is the template that its path matches.
    pub(super) fn count(&self, route: Option<&str>, method: &Method, status: u16, took: Duration) {
        let (route, method) = (route.unwrap_or(OTHER), method_label(method));
        let mut known = self.known.borrow_mut();
        let known = known.entry((method, status)).or_default();
        let (requests, durations) = match known.get(route) {
            Some(found) => found,
            None => known.entry(route.to_owned()).or_insert_with(|| {
                let labels = [route, method, &status.to_string()];
                let Families { requests, durations } = &self.families;
                (requests.with_label_values(&labels), durations.with_label_values(&[route, method]))
            }),
        };
        requests.inc();
        durations.observe(took.as_secs_f64());
    }
}

/// A method as labels and log lines name it: clients can make up others.
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
