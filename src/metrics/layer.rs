//! What the idempotency layer does: requests by outcome, money, batches and connections.

use std::any::Any;

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry,
};

use super::{COMMANDS, Each, SECONDS, counter, histogram, registered};
use crate::{
    idempotency::{
        BatchCommand, Event, Failure, Observer, Operation, Outcome, Resolution, Response, Step,
        outcome_name,
    },
    payments::{money::Amount, payment::TakePayment},
    refunds::refund::GiveBack,
};

/// The operations there are.
const OPERATIONS: [&str; 3] =
    [TakePayment::OPERATION.as_str(), GiveBack::OPERATION.as_str(), "void"];

/// What a keyed request can come to.
const OUTCOMES: [&str; 10] = [
    "new",
    "refused",
    "replayed",
    "reused",
    "expired",
    "voided",
    "in_flight",
    "overloaded",
    "throttled",
    "failed",
];

const STEPS: [Step; 6] =
    [Step::OneStatement, Step::Claim, Step::Execute, Step::Remember, Step::Commit, Step::LookUp];

/// How many payments or refunds, and how much they come to.
struct Money {
    count: IntCounterVec,
    minor_units: IntCounterVec,
}

pub(super) struct Layer {
    outcomes: Vec<(&'static str, Each)>,
    payments: Money,
    avoided: Money,
    refunds: Money,
    queued: Histogram,
    batch: Histogram,
    steps: Vec<(Step, Histogram)>,
    commits: IntCounter,
    failures: Each,
    locked_tables: IntCounter,
    connections: IntCounter,
    in_doubt: IntCounter,
    resolutions: Each,
}

impl Money {
    fn new(registry: &Registry, names: [(&str, &str); 2]) -> prometheus::Result<Self> {
        let [count, minor_units] = names.map(|(name, help)| {
            registered(registry, IntCounterVec::new(Opts::new(name, help), &["currency"])?)
        });
        Ok(Self { count: count?, minor_units: minor_units? })
    }

    fn count(&self, amount: Amount, currency: &str) {
        self.count.with_label_values(&[currency]).inc();
        let minor_units = u64::try_from(amount.minor_units()).unwrap_or(0);
        self.minor_units.with_label_values(&[currency]).inc_by(minor_units);
    }
}

impl Layer {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let outcomes = IntCounterVec::new(
            Opts::new("payonce_keyed_requests_total", "Requests with a key, by what they came to."),
            &["operation", "outcome"],
        );
        let outcomes = registered(registry, outcomes?)?;
        let of = |operation| {
            let each = OUTCOMES
                .map(|outcome| (outcome, outcomes.with_label_values(&[operation, outcome])));
            (operation, Each(each.into()))
        };
        let steps = HistogramOpts::new(
            "payonce_batch_step_duration_seconds",
            "How long a step of a batch takes: one_statement does all of it, the others are a transaction's.",
        );
        let steps = HistogramVec::new(steps.buckets(SECONDS.to_vec()), &["step"])?;
        let steps = registered(registry, steps)?;
        Ok(Self {
            outcomes: OPERATIONS.map(of).into(),
            payments: Money::new(
                registry,
                [
                    ("payonce_payments_total", "Payments taken."),
                    (
                        "payonce_payments_amount_minor_units_total",
                        "What the payments taken come to, in minor units of their currency.",
                    ),
                ],
            )?,
            avoided: Money::new(
                registry,
                [
                    (
                        "payonce_duplicate_payments_avoided_total",
                        "Copies of a payment's request that took no second payment.",
                    ),
                    (
                        "payonce_duplicate_payments_avoided_amount_minor_units_total",
                        "What the payments that were not taken twice come to, in minor units of their currency.",
                    ),
                ],
            )?,
            refunds: Money::new(
                registry,
                [
                    ("payonce_refunds_total", "Refunds made."),
                    (
                        "payonce_refunds_amount_minor_units_total",
                        "What the refunds made come to, in minor units of their payment's currency.",
                    ),
                ],
            )?,
            queued: histogram(
                registry,
                "payonce_queue_wait_seconds",
                "How long a key waits for its turn.",
                &SECONDS,
            )?,
            batch: histogram(
                registry,
                "payonce_batch_size_commands",
                "Commands in a batch that was committed.",
                &COMMANDS,
            )?,
            steps: STEPS.map(|step| (step, steps.with_label_values(&[step.name()]))).into(),
            commits: counter(registry, "payonce_commits_total", "Batches committed.")?,
            failures: Each::new(
                registry,
                (
                    "payonce_batch_failures_total",
                    "Transactions that failed, by what is done about it.",
                ),
                "remedy",
                ["isolate", "repeat", "sidestep", "reconnect", "await_server", "refuse"],
            )?,
            locked_tables: counter(
                registry,
                "payonce_locked_tables_total",
                "Times that a request waited for a table that another database session had locked.",
            )?,
            connections: counter(
                registry,
                "payonce_connections_opened_total",
                "Connections opened to commit with: the first ones, those that replace a lost one, and those for what is put aside.",
            )?,
            in_doubt: counter(
                registry,
                "payonce_keys_in_doubt_total",
                "Keys whose COMMIT was sent and never answered.",
            )?,
            resolutions: Each::new(
                registry,
                (
                    "payonce_keys_in_doubt_resolved_total",
                    "Keys that are no longer in doubt, by what became of them.",
                ),
                "resolution",
                ["committed", "not_committed", "unknown"],
            )?,
        })
    }

    fn answered(&self, operation: Operation, answer: &Result<Outcome, Failure>) {
        let known = self.outcomes.iter().find(|(known, _)| **known == *operation.as_str());
        if let Some((_, outcomes)) = known {
            outcomes.count(outcome_name(answer));
        }
    }

    fn executed(&self, command: &dyn Any, response: &Response) {
        if response.status() >= 400 {
            return;
        }
        if let Some(TakePayment { amount, currency, .. }) = command.downcast_ref() {
            self.payments.count(*amount, currency.code());
        } else if let Some((amount, currency)) = command.downcast_ref().and_then(GiveBack::given) {
            self.refunds.count(amount, &currency);
        }
    }
}

impl Observer for Layer {
    fn observe(&self, event: Event<'_>) {
        match event {
            Event::Answered { operation, answer } => self.answered(operation, answer),
            Event::Executed { command, response } => self.executed(command, response),
            Event::Replayed { command, response } => {
                if response.status() < 400
                    && let Some(TakePayment { amount, currency, .. }) = command.downcast_ref()
                {
                    self.avoided.count(*amount, currency.code());
                }
            }
            Event::Taken(waited) => self.queued.observe(waited.as_secs_f64()),
            Event::Ran(ran, took) => {
                if let Some((_, step)) = self.steps.iter().find(|(step, _)| *step == ran) {
                    step.observe(took.as_secs_f64());
                }
            }
            Event::Committed(size) => {
                self.commits.inc();
                self.batch.observe(f64::from(u32::try_from(size).unwrap_or(u32::MAX)));
            }
            Event::Failed(remedy) => self.failures.count(remedy.name()),
            Event::TableLocked => self.locked_tables.inc(),
            Event::Connected => self.connections.inc(),
            Event::InDoubt => self.in_doubt.inc(),
            Event::Settled(resolution) => self.resolutions.count(match resolution {
                Resolution::Committed => "committed",
                Resolution::NotCommitted => "not_committed",
                Resolution::Unknown => "unknown",
            }),
            _ => {}
        }
    }
}
