//! The bodies of events. They hold only facts that never change, which are read from payments and refunds.
//!
//! A run names the version of its bodies. The functions of every version are kept, so an event has the same bytes
//! years later.

use std::collections::HashMap;

use serde::Serialize;
use sqlx::PgConnection;

use super::{
    Event, EventType, Occurrence,
    store::{self, PaymentFacts, RefundFacts},
};
use crate::{
    db::timestamp::Timestamp,
    ids::{AccountId, ExecutionId, PaymentId, RefundId},
};

/// The version of new runs.
pub const VERSION: i16 = 1;

/// The body of `payment.created`, version 1. The status of a payment can change later, and is `success` in all
/// payments of this version.
#[derive(Serialize)]
struct PaymentCreated1<'a> {
    transaction_id: PaymentId,
    status: &'static str,
    user_id: &'a str,
    amount: i64,
    currency: &'a str,
    created_at: Timestamp,
}

/// The body of `refund.created`, version 1.
#[derive(Serialize)]
struct RefundCreated1<'a> {
    refund_id: RefundId,
    transaction_id: PaymentId,
    amount: i64,
    currency: &'a str,
    refunded_after: i64,
    created_at: Timestamp,
}

/// Renders events of an account, in the order of `occurrences`.
///
/// # Errors
/// When the database fails, lacks a payment or refund, or has an event of a later version of the program.
pub async fn render(
    conn: &mut PgConnection,
    account_id: AccountId,
    occurrences: &[Occurrence],
) -> Result<Vec<Event>, sqlx::Error> {
    let subjects = |of: EventType| -> Vec<ExecutionId> {
        let typed = occurrences.iter().filter(|one| one.event_type == of);
        typed.map(|one| one.subject).collect()
    };
    let payments = subjects(EventType::PaymentCreated);
    let refunds = subjects(EventType::RefundCreated);
    let payments = store::payments(conn, account_id, &payments).await?;
    let refunds = store::refunds(conn, account_id, &refunds).await?;
    occurrences.iter().map(|one| render_one(one, &payments, &refunds)).collect()
}

fn render_one(
    occurrence: &Occurrence,
    payments: &HashMap<ExecutionId, PaymentFacts>,
    refunds: &HashMap<ExecutionId, RefundFacts>,
) -> Result<Event, sqlx::Error> {
    let subject = occurrence.subject;
    let event = match (occurrence.version, occurrence.event_type) {
        (1, EventType::PaymentCreated) => {
            let payment = payments.get(&subject).ok_or_else(|| lacking("payment", occurrence))?;
            payment_created_1(occurrence, payment)
        }
        (1, EventType::RefundCreated) => {
            let refund = refunds.get(&subject).ok_or_else(|| lacking("refund", occurrence))?;
            refund_created_1(occurrence, refund)
        }
        (version, _) => {
            let position = occurrence.position;
            return Err(unreadable(format!("the event at {position} has version {version}")));
        }
    };
    event.map_err(unreadable)
}

fn payment_created_1(
    occurrence: &Occurrence,
    payment: &PaymentFacts,
) -> Result<Event, serde_json::Error> {
    let body = PaymentCreated1 {
        transaction_id: payment.transaction_id,
        status: "success",
        user_id: &payment.user_id,
        amount: payment.amount,
        currency: &payment.currency,
        created_at: payment.created_at,
    };
    Event::new(occurrence, payment.transaction_id, &body)
}

fn refund_created_1(
    occurrence: &Occurrence,
    refund: &RefundFacts,
) -> Result<Event, serde_json::Error> {
    let body = RefundCreated1 {
        refund_id: refund.refund_id,
        transaction_id: refund.transaction_id,
        amount: refund.amount,
        currency: &refund.currency,
        refunded_after: refund.refunded_after,
        created_at: refund.created_at,
    };
    Event::new(occurrence, refund.transaction_id, &body)
}

/// The error of an event that this program cannot render.
pub(super) fn unreadable(
    cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> sqlx::Error {
    sqlx::Error::Decode(cause.into())
}

fn lacking(what: &str, occurrence: &Occurrence) -> sqlx::Error {
    let Occurrence { position, subject, .. } = occurrence;
    unreadable(format!("the {what} {subject} of the event at {position} is missing"))
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use uuid::Uuid;

    use super::*;
    use crate::events::Position;

    fn time(text: &str) -> Timestamp {
        Timestamp(DateTime::parse_from_rfc3339(text).unwrap().to_utc())
    }

    fn id<T: From<Uuid>>(number: u128) -> T {
        Uuid::from_u128(number).into()
    }

    fn occurrence(event_type: EventType, subject: u128) -> Occurrence {
        Occurrence {
            position: Position::START.plus(7),
            version: 1,
            event_type,
            subject: id(subject),
            at: time("2026-12-01T09:00:00.1239Z"),
        }
    }

    #[test]
    fn an_event_of_version_1_has_these_bytes_permanently() {
        let payment = PaymentFacts {
            transaction_id: id(10),
            user_id: "Zoë \"user\"/1".to_owned(),
            amount: 9_007_199_254_740_991,
            currency: "EUR".to_owned(),
            created_at: time("2026-12-01T09:00:00Z"),
        };
        let event =
            payment_created_1(&occurrence(EventType::PaymentCreated, 10), &payment).unwrap();
        assert_eq!(
            event.envelope(),
            r#"{"event_id":"evt_0000000000000000000000000000000a_1","position":7,"type":"payment.created","timestamp":"2026-12-01T09:00:00.123Z","data":{"transaction_id":"00000000-0000-0000-0000-00000000000a","status":"success","user_id":"Zoë \"user\"/1","amount":9007199254740991,"currency":"EUR","created_at":"2026-12-01T09:00:00.000Z"}}"#
        );

        let refund = RefundFacts {
            refund_id: id(11),
            transaction_id: id(10),
            amount: 40,
            currency: "EUR".to_owned(),
            refunded_after: 100,
            created_at: time("2026-12-01T09:00:00.5Z"),
        };
        let event = refund_created_1(&occurrence(EventType::RefundCreated, 11), &refund).unwrap();
        assert_eq!(
            event.envelope(),
            r#"{"event_id":"evt_0000000000000000000000000000000b_2","position":7,"type":"refund.created","timestamp":"2026-12-01T09:00:00.123Z","data":{"refund_id":"00000000-0000-0000-0000-00000000000b","transaction_id":"00000000-0000-0000-0000-00000000000a","amount":40,"currency":"EUR","refunded_after":100,"created_at":"2026-12-01T09:00:00.500Z"}}"#
        );
    }

    #[test]
    fn an_event_that_cannot_be_rendered_is_an_error() {
        let (payments, refunds) = (HashMap::new(), HashMap::new());
        for (event_type, version, error) in [
            (EventType::PaymentCreated, 1, "the payment 00000000-0000-0000-0000-00000000000a"),
            (EventType::RefundCreated, 1, "the refund 00000000-0000-0000-0000-00000000000a"),
            (EventType::PaymentCreated, 9, "the event at 7 has version 9"),
        ] {
            let occurrence = Occurrence { version, ..occurrence(event_type, 10) };
            let result = render_one(&occurrence, &payments, &refunds);
            let message = result.unwrap_err().to_string();
            assert!(message.contains(error), "{message}");
        }
    }
}
