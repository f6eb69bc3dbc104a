//! Payments that are intended, sent more or less politely, and what is heard of them.

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

use super::client::{Answer, Client, Request, Unanswered};

/// Users that payments are spread over: as many lists are read back at once.
const USERS: u64 = 16;

/// The names of one storm: nobody else's payments have them, so that what is read back is what it made.
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

/// Each payment has an amount of its own, by which it is known when it is read back.
pub(super) fn amount(number: u64) -> u64 {
    number + 1
}

/// A payment as it is answered and as it is listed; what else it has is not of interest.
#[derive(Debug, Deserialize)]
pub(super) struct Payment {
    pub(super) transaction_id: String,
    pub(super) user_id: String,
    pub(super) amount: u64,
}

/// What was heard of all payments.
#[derive(Default)]
pub(super) struct Heard {
    pub(super) hang_ups: u64,
    pub(super) replays: u64,
    pub(super) reuses_refused: u64,
    /// The transaction that each payment was answered with.
    pub(super) made: BTreeMap<u64, String>,
    /// Payments that were answered as more than one.
    pub(super) twice: BTreeSet<u64>,
    /// What was not answered for good, in words.
    pub(super) unanswered: Vec<String>,
    /// Promises that were broken, in words.
    pub(super) broken: Vec<String>,
}

/// Intends payments, and keeps account of them.
pub(super) struct Intents<'a> {
    pub(super) client: &'a Client<'a>,
    pub(super) names: &'a Names,
    pub(super) heard: RefCell<Heard>,
}

impl Intents<'_> {
    /// Makes one payment: mostly as one does, often by several copies at once, with a hang-up, a late
    /// duplicate, or a wrong use of its key afterwards.
    pub(super) async fn intend(&self, number: u64) {
        let request = self.request(number, amount(number));
        let copies = match number % 10 {
            0 => 5,
            1 | 2 => 2,
            _ => 1,
        };
        let mut answers = Vec::new();
        if number % 10 == 3 {
            let instant = Duration::from_micros(fastrand::u64(50..3000));
            match timeout(instant, self.client.send(&request)).await {
                Err(_) => self.heard.borrow_mut().hang_ups += 1,
                Ok(Ok(answer)) if answer.is_final() => answers.push(Ok(answer)),
                Ok(_) => {}
            }
        }
        answers.extend(join_all((0..copies).map(|_| self.client.settle(&request))).await);
        if number.is_multiple_of(4) {
            answers.push(self.client.settle(&request).await);
        }
        self.judge(number, &answers);
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

    fn judge(&self, number: u64, answers: &[Result<Answer, Unanswered>]) {
        let key = self.names.key(number);
        let mut heard = self.heard.borrow_mut();
        let mut bodies = BTreeSet::new();
        let mut created = 0;
        for answer in answers {
            match answer {
                Ok(Answer { status: status @ (200 | 201), replayed, body, .. }) => {
                    let new = *status == 201 && !replayed;
                    created += u32::from(new);
                    heard.replays += u64::from(!new);
                    bodies.insert(body.as_str());
                }
                Ok(Answer { status, body, .. }) => {
                    heard.broken.push(format!("{key} was answered with {status}: {body}"));
                }
                Err(unanswered) => heard.unanswered.push(format!("{key} {unanswered}")),
            }
        }
        if created > 1 {
            heard.broken.push(format!("{key} was answered as new {created} times"));
        }
        if bodies.len() > 1 {
            heard.broken.push(format!("{key} was answered in {} ways: {bodies:?}", bodies.len()));
        }
        if created > 1 || bodies.len() > 1 {
            heard.twice.insert(number);
        }
        let Some(body) = bodies.first() else { return };
        match serde_json::from_str::<Payment>(body) {
            Ok(payment)
                if payment.user_id == self.names.user(number)
                    && payment.amount == amount(number) =>
            {
                heard.made.insert(number, payment.transaction_id);
            }
            _ => heard.broken.push(format!("{key} was answered with another payment: {body}")),
        }
    }

    /// Sends another payment with a key that is used up. Nobody intends its amount, so that it is known
    /// when it is read back.
    async fn reuse(&self, number: u64) {
        let answer = self.client.settle(&self.request(number, u64::from(u32::MAX) + number)).await;
        let key = self.names.key(number);
        let mut heard = self.heard.borrow_mut();
        match answer {
            Ok(Answer { status: 422, .. }) => heard.reuses_refused += 1,
            Ok(Answer { status, body, .. }) => {
                heard.broken.push(format!("{key} was reused, and answered with {status}: {body}"));
            }
            Err(unanswered) => heard.unanswered.push(format!("{key}, reused, {unanswered}")),
        }
    }
}
