//! The work of the idempotency layer: keyed requests by outcome, money, batches and connections.

use std::any::Any;

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry,
};

use super::{
    COMMANDS, SECONDS, counter, histogram,
    labels::{Counters, KeyedOutcome, Label},
    registered,
};
use crate::{
    idempotency::{BatchCommand, Event, Observer, Operation, Remedy, Resolution, Response, Step},
    payments::command::CreatePayment,
    refunds::command::{CreateRefund, Refunded},
};

const OPERATIONS: [Operation; 3] =
    [CreatePayment::OPERATION, CreateRefund::OPERATION, Operation::VOID];

/// The number of payments or refunds, and their sum.
struct Money {
    count: IntCounterVec,
    minor_units: IntCounterVec,
}

pub(super) struct Layer {
    outcomes: IntCounterVec,
    payments: Money,
    avoided: Money,
    refunds: Money,
    queued: Histogram,
    batch: Histogram,
    steps: HistogramVec,
    commits: IntCounter,
    failures: Counters<Remedy>,
    locked_tables: IntCounter,
    connections: IntCounter,
    in_doubt: IntCounter,
    resolutions: Counters<Resolution>,
}

impl Money {
    fn new(registry: &Registry, names: [(&str, &str); 2]) -> prometheus::Result<Self> {
        let [count, minor_units] = names.map(|(name, help)| {
            registered(registry, IntCounterVec::new(Opts::new(name, help), &["currency"])?)
        });
        Ok(Self { count: count?, minor_units: minor_units? })
    }

    fn count(&self, minor_units: i64, currency: &str) {
        self.count.with_label_values(&[currency]).inc();
        let minor_units = u64::try_from(minor_units).unwrap_or(0);
        self.minor_units.with_label_values(&[currency]).inc_by(minor_units);
    }
}

impl Layer {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let [payments, avoided, refunds] = money(registry)?;
        Ok(Self {
            outcomes: outcomes(registry)?,
            payments,
            avoided,
            refunds,
            queued: histogram(
                registry,
                "payonce_queue_wait_seconds",
                "Time a key waits for its batch.",
                &SECONDS,
            )?,
            batch: histogram(
                registry,
                "payonce_batch_size_commands",
                "Commands in a committed batch.",
                &COMMANDS,
            )?,
            steps: steps(registry)?,
            commits: counter(registry, "payonce_commits_total", "Committed batches.")?,
            failures: Counters::new(
                registry,
                "payonce_batch_failures_total",
                "Failed transactions, by remedy.",
            )?,
            locked_tables: counter(
                registry,
                "payonce_locked_tables_total",
                "Times that a request waited for a table that another database session had locked.",
            )?,
            connections: counter(
                registry,
                "payonce_connections_opened_total",
                "Connections opened for committing, with replacements and those for quarantined commands.",
            )?,
            in_doubt: counter(
                registry,
                "payonce_keys_in_doubt_total",
                "Keys whose COMMIT was sent but not acknowledged.",
            )?,
            resolutions: Counters::new(
                registry,
                "payonce_keys_in_doubt_resolved_total",
                "Keys no longer in doubt, by resolution.",
            )?,
        })
    }

    fn executed(&self, command: &dyn Any, response: &Response) {
        if response.status() >= 400 {
            return;
        }
        if let Some(CreatePayment { amount, currency, .. }) = command.downcast_ref() {
            self.payments.count(amount.minor_units(), currency.code());
        } else if command.is::<CreateRefund>()
            && let Some(Refunded { amount, currency }) = Refunded::read(response)
        {
            self.refunds.count(amount, &currency);
        }
    }
}

fn outcomes(registry: &Registry) -> prometheus::Result<IntCounterVec> {
    let help = "Requests with a key, by outcome.";
    let names = ["operation", KeyedOutcome::NAME];
    let outcomes = IntCounterVec::new(Opts::new("payonce_keyed_requests_total", help), &names)?;
    for operation in OPERATIONS {
        for outcome in KeyedOutcome::ALL {
            outcomes.with_label_values(&[operation.as_str(), outcome.value()]);
        }
    }
    registered(registry, outcomes)
}

fn steps(registry: &Registry) -> prometheus::Result<HistogramVec> {
    let opts = HistogramOpts::new(
        "payonce_batch_step_duration_seconds",
        "Duration of a step of a batch. one_statement is a whole batch, the others are parts of a transaction.",
    );
    let steps = HistogramVec::new(opts.buckets(SECONDS.to_vec()), &[Step::NAME])?;
    for step in Step::ALL {
        steps.with_label_values(&[step.value()]);
    }
    registered(registry, steps)
}

/// Payments, duplicates avoided, refunds.
fn money(registry: &Registry) -> prometheus::Result<[Money; 3]> {
    Ok([
        Money::new(
            registry,
            [
                ("payonce_payments_total", "Payments created."),
                (
                    "payonce_payments_amount_minor_units_total",
                    "Sum of the payments created, in minor units of their currency.",
                ),
            ],
        )?,
        Money::new(
            registry,
            [
                (
                    "payonce_duplicate_payments_avoided_total",
                    "Duplicate requests that created no second payment.",
                ),
                (
                    "payonce_duplicate_payments_avoided_amount_minor_units_total",
                    "Sum of the payments not created twice, in minor units of their currency.",
                ),
            ],
        )?,
        Money::new(
            registry,
            [
                ("payonce_refunds_total", "Refunds created."),
                (
                    "payonce_refunds_amount_minor_units_total",
                    "Sum of the refunds created, in minor units of their payment's currency.",
                ),
            ],
        )?,
    ])
}

impl Observer for Layer {
    fn observe(&self, event: Event<'_>) {
        match event {
            Event::Answered { operation, answer } => {
                let outcome = KeyedOutcome::of(answer);
                self.outcomes.with_label_values(&[operation.as_str(), outcome.value()]).inc();
            }
            Event::Executed { command, response } => self.executed(command, response),
            Event::Replayed { command, response } => {
                if response.status() < 400
                    && let Some(CreatePayment { amount, currency, .. }) = command.downcast_ref()
                {
                    self.avoided.count(amount.minor_units(), currency.code());
                }
            }
            Event::Taken(waited) => self.queued.observe(waited.as_secs_f64()),
            Event::Ran(step, took) => {
                self.steps.with_label_values(&[step.value()]).observe(took.as_secs_f64());
            }
            Event::Committed(size) => {
                self.commits.inc();
                self.batch.observe(f64::from(u32::try_from(size).unwrap_or(u32::MAX)));
            }
            Event::Failed(remedy) => self.failures.count(remedy),
            Event::TableLocked => self.locked_tables.inc(),
            Event::Connected => self.connections.inc(),
            Event::InDoubt => self.in_doubt.inc(),
            Event::Settled(resolution) => self.resolutions.count(resolution),
            _ => {}
        }
    }
}
