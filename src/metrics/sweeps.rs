//! What the sweeper in the background does.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use chrono::{DateTime, Utc};
use prometheus::{Gauge, GaugeVec, IntCounter, IntCounterVec, Opts, Registry};

use super::{counter, gauge, registered};
use crate::idempotency::{Oldest, Swept};

/// What the sweeper counts with; cheap to clone.
#[derive(Clone)]
pub struct Sweeps {
    responses: Rows,
    keys: Rows,
    failures: IntCounter,
    last_success: Gauge,
    /// `None`: no sweeper looks.
    oldest: Arc<Mutex<Option<Oldest>>>,
}

/// What is said of one table.
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
            "How long ago the oldest row expired that is still there, by what the sweeper saw when it last looked; 0 where none has. It grows on while the sweeper can't look.",
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
                "Passes of the sweeper that failed.",
            )?,
            last_success: gauge(
                registry,
                "payonce_sweep_last_success_timestamp_seconds",
                "When the sweeper last came to the end of a pass, or the server was started.",
            )?,
            oldest: Arc::default(),
        };
        sweeps.succeeded();
        Ok(sweeps)
    }

    /// These rows were deleted.
    pub fn deleted(&self, swept: Swept) {
        self.responses.deleted.inc_by(swept.responses);
        self.keys.deleted.inc_by(swept.keys);
    }

    /// These are still there.
    pub fn saw(&self, oldest: Oldest) {
        *self.oldest.lock().unwrap_or_else(PoisonError::into_inner) = Some(oldest);
    }

    /// A pass came to its end.
    pub fn succeeded(&self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        self.last_success.set(now.map_or(0.0, |now| now.as_secs_f64()));
    }

    /// A pass failed.
    pub fn failed(&self) {
        self.failures.inc();
    }

    /// Says how far it lags, now: also where it hangs, and says nothing itself.
    pub(super) fn update(&self) {
        let oldest = *self.oldest.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Oldest { responses, keys }) = oldest else { return };
        self.responses.lag.set(seconds_since(responses));
        self.keys.lag.set(seconds_since(keys));
    }
}

/// 0 for what is yet to come.
fn seconds_since(then: Option<DateTime<Utc>>) -> f64 {
    let since = then.and_then(|then| (Utc::now() - then).to_std().ok());
    since.unwrap_or_default().as_secs_f64()
}
