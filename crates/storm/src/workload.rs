//! The payments of a storm, the ways in which they are sent, and what is observed of them.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use actix_http::Method;
use futures_util::future::join_all;
use serde::Deserialize;
use serde_json::json;
use tokio::time::timeout;
use uuid::Uuid;

use super::client::{Client, Request, Response, Unanswered};

/// Users that the payments are spread over. Their lists are read back concurrently.
const USERS: u64 = 16;

/// The names of one storm. No other payments have them, so that a list has this storm's payments only.
pub(super) struct Names(String);

impl Names {
    pub(super) fn new() -> Self {
        Self(format!("storm-{}", Uuid::new_v4().simple()))
    }

    pub(super) fn key(&self, number: u64) -> String {
        format!("{}-{number}", self.0)
    }

    pub(super) fn user(&self, number: u64) -> String {
        format!("{}-user-{}", self.0, number % USERS)
    }

    /// All users.
    pub(super) fn users(&self) -> impl Iterator<Item = String> {
        (0..USERS).map(|number| self.user(number))
    }
}

/// Each payment has its own amount, which identifies it when it is read back.
pub(super) fn amount(number: u64) -> u64 {
    number + 1
}

/// The fields of a payment that a response and a list share.
#[derive(Debug, Deserialize)]
pub(super) struct Payment {
    pub(super) transaction_id: String,
    pub(super) user_id: String,
    pub(super) amount: u64,
}

/// The observations of all payments.
#[derive(Default)]
pub(super) struct Observed {
    pub(super) hang_ups: u64,
    pub(super) replays: u64,
    pub(super) reuses_refused: u64,
    /// The transaction in the response to each payment.
    pub(super) created: BTreeMap<u64, String>,
    /// Payments that were created more than once.
    pub(super) duplicated: BTreeSet<u64>,
    /// Requests without a final response, in words.
    pub(super) unanswered: Vec<String>,
    /// Broken promises, in words.
    pub(super) broken: Vec<String>,
}

/// Makes payments, and checks the responses.
pub(super) struct Workload<'a> {
    pub(super) client: &'a Client<'a>,
    pub(super) names: &'a Names,
    pub(super) observed: RefCell<Observed>,
}

impl Workload<'_> {
    /// Makes one payment. Depending on its number, duplicates are sent at the same time or later, the first request is
    /// aborted, or the key is reused for another payment.
    pub(super) async fn pay(&self, number: u64) {
        let request = self.request(number, amount(number));
        let duplicates = match number % 10 {
            0 => 5,
            1 | 2 => 2,
            _ => 1,
        };
        let mut responses = Vec::new();
        if number % 10 == 3 {
            let instant = Duration::from_micros(fastrand::u64(50..3000));
            match timeout(instant, self.client.send(&request)).await {
                Err(_) => self.observed.borrow_mut().hang_ups += 1,
                Ok(Ok(response)) if response.is_final() => responses.push(Ok(response)),
                Ok(_) => {}
            }
        }
        let sent = (0..duplicates).map(|_| self.client.send_until_final(&request));
        responses.extend(join_all(sent).await);
        if number.is_multiple_of(4) {
            responses.push(self.client.send_until_final(&request).await);
        }
        self.check(number, &responses);
        if number % 10 == 4 {
            self.reuse(number).await;
        }
    }

    fn request(&self, number: u64, amount: u64) -> Request {
        let payment = json!({ "user_id": self.names.user(number), "amount": amount });
        Request {
            method: Method::POST,
            path: "/payment".to_owned(),
            key: Some(self.names.key(number)),
            body: payment.to_string().into(),
        }
    }

    /// Checks that all responses to a payment are the same, and that one at most created it.
    fn check(&self, number: u64, responses: &[Result<Response, Unanswered>]) {
        let key = self.names.key(number);
        let mut observed = self.observed.borrow_mut();
        let mut bodies = BTreeSet::new();
        let mut created = 0;
        for response in responses {
            match response {
                Ok(Response { status: status @ (200 | 201), replayed, body, .. }) => {
                    let new = *status == 201 && !replayed;
                    created += u32::from(new);
                    observed.replays += u64::from(!new);
                    bodies.insert(body.as_str());
                }
                Ok(Response { status, body, .. }) => {
                    observed.broken.push(format!("{key} was answered with {status}: {body}"));
                }
                Err(unanswered) => observed.unanswered.push(format!("{key} {unanswered}")),
            }
        }
        if created > 1 {
            observed.broken.push(format!("{key} was answered as new {created} times"));
        }
        if bodies.len() > 1 {
            let count = bodies.len();
            observed.broken.push(format!("{key} was answered in {count} ways: {bodies:?}"));
        }
        if created > 1 || bodies.len() > 1 {
            observed.duplicated.insert(number);
        }
        let Some(body) = bodies.first() else { return };
        match serde_json::from_str::<Payment>(body) {
            Ok(payment)
                if payment.user_id == self.names.user(number)
                    && payment.amount == amount(number) =>
            {
                observed.created.insert(number, payment.transaction_id);
            }
            _ => observed.broken.push(format!("{key} was answered with another payment: {body}")),
        }
    }

    /// Sends another payment with a used key. No payment is intended to have its amount, so that the reconciliation
    /// finds it.
    async fn reuse(&self, number: u64) {
        let request = self.request(number, u64::from(u32::MAX) + number);
        let response = self.client.send_until_final(&request).await;
        let key = self.names.key(number);
        let mut observed = self.observed.borrow_mut();
        match response {
            Ok(Response { status: 422, .. }) => observed.reuses_refused += 1,
            Ok(Response { status, body, .. }) => {
                observed
                    .broken
                    .push(format!("{key} was reused, and answered with {status}: {body}"));
            }
            Err(unanswered) => observed.unanswered.push(format!("{key}, reused, {unanswered}")),
        }
    }
}
