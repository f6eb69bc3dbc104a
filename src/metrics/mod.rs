//! Metrics for Prometheus. A test compares them with `docs/reference/metrics.md`.
//!
//! No label holds an account, a user, a key, or another value that clients choose.

use std::{sync::Arc, time::Duration};

use actix_web::{HttpRequest, http::StatusCode};
use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounter, IntGauge, Opts, Registry, TextEncoder,
    core::{Atomic, Collector, GenericGauge},
};

pub mod access;
mod exposition;
mod labels;
mod layer;
pub(crate) mod openapi;
mod process;
mod requests;
mod sequencing;
mod sweeps;
mod webhooks;

pub use exposition::show;
pub use labels::KeyedOutcome;
pub(crate) use requests::method_label;
pub use sequencing::Sequencing;
pub use sweeps::Sweeps;
pub use webhooks::{Attempt, Endpoints, Webhooks};

use crate::{
    idempotency::{Engine, Observer},
    logs,
};

/// Buckets of durations, in seconds: from one step of a batch to the deadline of a request.
const SECONDS: [f64; 14] =
    [0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0];

/// Buckets of batch sizes, in commands.
const COMMANDS: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

/// All metrics of a server.
pub struct Metrics {
    registry: Registry,
    layer: Arc<layer::Layer>,
    requests: requests::Requests,
    sweeps: Sweeps,
    sequencing: Sequencing,
    webhooks: Webhooks,
    process: process::Process,
    queue_keys: IntGauge,
    dropped_lines: IntCounter,
}

impl Metrics {
    /// Registers all metrics. `queue_limit` is how many keys may be in the queue.
    ///
    /// # Errors
    /// When two metrics have one name: a defect.
    pub fn new(queue_limit: usize) -> prometheus::Result<Self> {
        let registry = Registry::new();
        let build = Opts::new("payonce_build_info", "The version that runs. Always 1.")
            .const_label("version", env!("CARGO_PKG_VERSION"));
        registered(&registry, IntGauge::with_opts(build)?)?.set(1);
        let limit = "Keys that may wait or execute before further keys get 503.";
        gauge::<prometheus::core::AtomicI64>(&registry, "payonce_queue_limit_keys", limit)?
            .set(i64::try_from(queue_limit).unwrap_or(i64::MAX));
        Ok(Self {
            layer: Arc::new(layer::Layer::new(&registry)?),
            requests: requests::Requests::new(&registry)?,
            sweeps: Sweeps::new(&registry)?,
            sequencing: Sequencing::new(&registry)?,
            webhooks: Webhooks::new(&registry)?,
            process: process::Process::new(&registry)?,
            queue_keys: gauge(&registry, "payonce_queue_keys", "Keys that wait or execute.")?,
            dropped_lines: counter(
                &registry,
                "payonce_log_lines_dropped_total",
                "Log lines dropped because stderr takes them too slowly.",
            )?,
            registry,
        })
    }

    /// The observer that counts the idempotency layer's work.
    #[must_use]
    pub fn observer(&self) -> Arc<dyn Observer> {
        Arc::<layer::Layer>::clone(&self.layer)
    }

    /// Counts a request that was answered with this status after this time.
    pub fn count_request(&self, request: &HttpRequest, status: StatusCode, took: Duration) {
        self.requests.count(request.match_pattern().as_deref(), request.method(), status, took);
    }

    /// The sweeper's counters.
    #[must_use]
    pub fn sweeps(&self) -> Sweeps {
        self.sweeps.clone()
    }

    /// The sequencer's counters.
    #[must_use]
    pub fn sequencing(&self) -> Sequencing {
        self.sequencing.clone()
    }

    /// The counters of webhooks.
    #[must_use]
    pub fn webhooks(&self) -> Webhooks {
        self.webhooks.clone()
    }

    /// Renders all metrics in Prometheus' text format.
    ///
    /// # Errors
    /// When a metric has no name: a defect.
    pub fn render(&self, engine: &Engine) -> prometheus::Result<Vec<u8>> {
        self.queue_keys.set(i64::try_from(engine.queued()).unwrap_or(i64::MAX));
        self.sweeps.update();
        self.sequencing.update();
        self.process.update();
        self.dropped_lines.inc_by(logs::dropped().saturating_sub(self.dropped_lines.get()));
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

fn registered<M: Collector + Clone + 'static>(
    registry: &Registry,
    metric: M,
) -> prometheus::Result<M> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn counter(registry: &Registry, name: &str, help: &str) -> prometheus::Result<IntCounter> {
    registered(registry, IntCounter::new(name, help)?)
}

fn gauge<P: Atomic + 'static>(
    registry: &Registry,
    name: &str,
    help: &str,
) -> prometheus::Result<GenericGauge<P>> {
    registered(registry, GenericGauge::new(name, help)?)
}

fn histogram(
    registry: &Registry,
    name: &str,
    help: &str,
    buckets: &[f64],
) -> prometheus::Result<Histogram> {
    let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
    registered(registry, Histogram::with_opts(opts)?)
}
