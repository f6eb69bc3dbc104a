//! The background sweeper's work.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use chrono::{DateTime, Utc};
use prometheus::{Gauge, GaugeVec, IntCounter, IntCounterVec, Opts, Registry};

use super::{counter, gauge, registered};
use crate::idempotency::{Oldest, Swept};

/// The sweeper's counters; cheap to clone.
#[derive(Clone)]
pub struct Sweeps {
    responses: Rows,
    keys: Rows,
    failures: IntCounter,
    last_success: Gauge,
    /// `None` before the first look, and without a sweeper.
    oldest: Arc<Mutex<Option<Oldest>>>,
}

/// The metrics of one table.
#[derive(Clone)]
struct Rows {
    deleted: IntCounter,
    lag: Gauge,
}

impl Sweeps {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let deleted =
            Opts::new("payonce_sweep_deleted_rows_total", "Expired rows that the sweeper deleted.");
        let deleted = registered(registry, IntCounterVec::new(deleted, &["of"])?)?;
        let lag = Opts::new(
            "payonce_sweep_lag_seconds",
            "Age of the oldest expired row that still exists, as last seen by the sweeper, or 0. It also grows while the sweeper fails.",
        );
        let lag = registered(registry, GaugeVec::new(lag, &["of"])?)?;
        let rows = |of| Rows {
            deleted: deleted.with_label_values(&[of]),
            lag: lag.with_label_values(&[of]),
        };
        let sweeps = Self {
            responses: rows("responses"),
            keys: rows("keys"),
            failures: counter(
                registry,
                "payonce_sweep_failures_total",
                "Failed passes of the sweeper.",
            )?,
            last_success: gauge(
                registry,
                "payonce_sweep_last_success_timestamp_seconds",
                "End of the sweeper's last complete pass, or start of the server, in seconds since 1970.",
            )?,
            oldest: Arc::default(),
        };
        sweeps.succeeded();
        Ok(sweeps)
    }

    /// Counts deleted rows.
    pub fn deleted(&self, swept: Swept) {
        self.responses.deleted.inc_by(swept.responses);
        self.keys.deleted.inc_by(swept.keys);
    }

    /// Notes the oldest expired rows that still exist.
    pub fn saw(&self, oldest: Oldest) {
        *self.oldest.lock().unwrap_or_else(PoisonError::into_inner) = Some(oldest);
    }

    /// Notes a complete pass.
    pub fn succeeded(&self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        self.last_success.set(now.map_or(0.0, |now| now.as_secs_f64()));
    }

    /// Counts a failed pass.
    pub fn failed(&self) {
        self.failures.inc();
    }

    /// Updates the lag. It grows even if the sweeper hangs.
    pub(super) fn update(&self) {
        let oldest = *self.oldest.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Oldest { responses, keys }) = oldest else { return };
        self.responses.lag.set(seconds_since(responses));
        self.keys.lag.set(seconds_since(keys));
    }
}

/// Returns 0 for the future.
fn seconds_since(then: Option<DateTime<Utc>>) -> f64 {
    let since = then.and_then(|then| (Utc::now() - then).to_std().ok());
    since.unwrap_or_default().as_secs_f64()
}
