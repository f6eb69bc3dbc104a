//! The open failures of an endpoint: events whose delivery is attempted again, or that wait for an earlier one.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use super::facts::Facts;
use crate::ids::PaymentId;

/// An event that was not delivered.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) facts: Facts,
    /// Failed attempts; 0 while it waits for an earlier event, or its first call still runs.
    pub(super) attempts: u16,
    /// The time of the next attempt.
    pub(super) due: Instant,
}

/// The open failures, by position. Only the first one of each payment is attempted: the later ones wait for it.
#[derive(Debug, Default)]
pub(super) struct Failures {
    open: BTreeMap<i64, Failure>,
    by_payment: BTreeMap<PaymentId, BTreeSet<i64>>,
    /// The first failure of each payment, unless it is being called.
    attempted: BTreeSet<(Instant, i64)>,
    called: BTreeSet<i64>,
}

impl Failures {
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    pub(super) fn get(&self, position: i64) -> Option<&Failure> {
        self.open.get(&position)
    }

    /// Returns whether an earlier event of the same payment is open, for which this one must wait.
    pub(super) fn hold(&self, payment_id: PaymentId, position: i64) -> bool {
        self.first_of(payment_id).is_some_and(|first| first < position)
    }

    /// The failures to attempt, the one that is due first at the front.
    pub(super) fn attempted(&self) -> impl Iterator<Item = (Instant, i64)> {
        self.attempted.iter().copied()
    }

    /// Adds a failure or replaces it. It is not being called any more.
    pub(super) fn put(&mut self, failure: Failure) {
        let Facts { position, payment_id, .. } = failure.facts;
        self.change(payment_id, |this| {
            this.open.insert(position, failure);
            this.by_payment.entry(payment_id).or_default().insert(position);
            this.called.remove(&position);
        });
    }

    /// Notes that a call for it runs.
    pub(super) fn call(&mut self, position: i64) {
        if let Some(payment_id) = self.get(position).map(|failure| failure.facts.payment_id) {
            self.change(payment_id, |this| {
                this.called.insert(position);
            });
        }
    }

    /// Removes a failure, because it was delivered or is parked.
    pub(super) fn remove(&mut self, position: i64) {
        let Some(payment_id) = self.get(position).map(|failure| failure.facts.payment_id) else {
            return;
        };
        self.change(payment_id, |this| {
            this.open.remove(&position);
            this.called.remove(&position);
            if let Some(positions) = this.by_payment.get_mut(&payment_id) {
                positions.remove(&position);
                if positions.is_empty() {
                    this.by_payment.remove(&payment_id);
                }
            }
        });
    }

    fn first_of(&self, payment_id: PaymentId) -> Option<i64> {
        self.by_payment.get(&payment_id)?.first().copied()
    }

    /// Changes the failures of a payment, and lists which of them is attempted.
    fn change(&mut self, payment_id: PaymentId, change: impl FnOnce(&mut Self)) {
        if let Some(attempted) = self.attempted_of(payment_id) {
            self.attempted.remove(&attempted);
        }
        change(self);
        if let Some(attempted) = self.attempted_of(payment_id) {
            self.attempted.insert(attempted);
        }
    }

    fn attempted_of(&self, payment_id: PaymentId) -> Option<(Instant, i64)> {
        let first = self.first_of(payment_id)?;
        let failure = self.get(first).filter(|_| !self.called.contains(&first))?;
        Some((failure.due, first))
    }
}
