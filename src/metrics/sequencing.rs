//! The sequencer's work.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use prometheus::{Gauge, Histogram, IntCounter, IntGauge, Registry};
use tokio::time::Instant;

use super::{SECONDS, counter, gauge, histogram};
use crate::events::sequencer::Pass;

/// The sequencer's counters; cheap to clone.
#[derive(Clone)]
pub struct Sequencing {
    events: IntCounter,
    passes: IntCounter,
    failures: IntCounter,
    ages: Histogram,
    waiting: IntGauge,
    lag: Gauge,
    /// When the last pass began that left nothing. `None` without a sequencer.
    complete: Arc<Mutex<Option<Instant>>>,
}

impl Sequencing {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            events: counter(
                registry,
                "payonce_events_total",
                "Events that this server gave their positions.",
            )?,
            passes: counter(
                registry,
                "payonce_sequencer_passes_total",
                "Passes of the sequencer that found events.",
            )?,
            failures: counter(
                registry,
                "payonce_sequencer_failures_total",
                "Failed passes of the sequencer.",
            )?,
            ages: histogram(
                registry,
                "payonce_event_wait_seconds",
                "Time from the beginning of a transaction until its events got their positions.",
                &SECONDS,
            )?,
            waiting: gauge(
                registry,
                "payonce_events_waiting",
                "Events that the sequencer has left for later, counted every ten seconds.",
            )?,
            lag: gauge(
                registry,
                "payonce_sequencer_lag_seconds",
                "Time since the sequencer last left no committed event waiting.",
            )?,
            complete: Arc::default(),
        })
    }

    /// Notes that a sequencer starts.
    pub fn started(&self) {
        self.is_complete(Instant::now());
    }

    /// Counts a pass that began then.
    pub fn passed(&self, began: Instant, pass: &Pass) {
        self.events.inc_by(pass.events.try_into().unwrap_or(u64::MAX));
        self.passes.inc_by(u64::from(pass.events > 0));
        pass.ages.iter().map(Duration::as_secs_f64).for_each(|age| self.ages.observe(age));
        if !pass.more {
            self.waiting.set(0);
            self.is_complete(began);
        }
    }

    /// Notes the number of events that wait.
    pub fn waiting(&self, events: i64) {
        self.waiting.set(events);
    }

    /// Counts a failed pass.
    pub fn failed(&self) {
        self.failures.inc();
    }

    fn is_complete(&self, began: Instant) {
        *self.complete.lock().unwrap_or_else(PoisonError::into_inner) = Some(began);
    }

    /// Updates the lag. It grows even if the sequencer hangs.
    pub(super) fn update(&self) {
        let complete = *self.complete.lock().unwrap_or_else(PoisonError::into_inner);
        self.lag.set(complete.map_or(0.0, |began| began.elapsed().as_secs_f64()));
    }
}
