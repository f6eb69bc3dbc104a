//! What the sweeper in the background does.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::{Gauge, IntCounter, IntCounterVec, Opts, Registry};

use super::{counter, gauge, registered};

/// What the sweeper counts with; cheap to clone.
#[derive(Clone)]
pub struct Sweeps {
    responses: IntCounter,
    keys: IntCounter,
    failures: IntCounter,
    last_success: Gauge,
}

impl Sweeps {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let deleted =
            Opts::new("payonce_sweep_deleted_rows_total", "Expired rows that the sweeper deleted.");
        let deleted = registered(registry, IntCounterVec::new(deleted, &["of"])?)?;
        let sweeps = Self {
            responses: deleted.with_label_values(&["responses"]),
            keys: deleted.with_label_values(&["keys"]),
            failures: counter(
                registry,
                "payonce_sweep_failures_total",
                "Passes of the sweeper that failed.",
            )?,
            last_success: gauge(
                registry,
                "payonce_sweep_last_success_timestamp_seconds",
                "When the sweeper last came to the end of a pass, or the server was started.",
            )?,
        };
        sweeps.succeeded((0, 0));
        Ok(sweeps)
    }

    /// A pass came to its end, and deleted so many responses and keys.
    pub fn succeeded(&self, (responses, keys): (u64, u64)) {
        self.responses.inc_by(responses);
        self.keys.inc_by(keys);
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        self.last_success.set(now.map_or(0.0, |now| now.as_secs_f64()));
    }

    /// A pass failed.
    pub fn failed(&self) {
        self.failures.inc();
    }
}
