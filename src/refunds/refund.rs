//! Giving back, as a command to be executed exactly once.

use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use sqlx::PgConnection;
use uuid::Uuid;

use super::store;
use crate::{
    http::problem::{Kind, Problem, Retry},
    idempotency::{BatchCommand, BatchEntry, Error, Fingerprint, Operation, Response},
    payments::{money::Amount, payment::location},
};

/// How many refunds a payment takes: each is shown with it. The last of them is of all that is left, so
/// that nothing ever can't be given back. The database knows this number too.
pub const MAX_REFUNDS: i16 = 100;

/// The part of a payment to refund.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// This amount.
    Amount(Amount),
    /// Everything that is left.
    Remaining,
}

/// The request to refund a payment.
#[derive(Debug)]
pub struct GiveBack {
    /// The payment.
    pub transaction_id: Uuid,
    /// How much of it.
    pub wanted: Wanted,
    /// What the latest execution gives back. At most one is ever committed, and none comes after that.
    given: Mutex<Option<Given>>,
}

impl GiveBack {
    /// The request to refund so much of this payment.
    #[must_use]
    pub fn new(transaction_id: Uuid, wanted: Wanted) -> Self {
        Self { transaction_id, wanted, given: Mutex::default() }
    }

    /// What this very command gave back, in which currency, for whoever hears that it is committed:
    /// neither the request nor the answer says both. Nothing, where it was refused or executed before.
    #[must_use]
    pub fn given(&self) -> Option<(Amount, String)> {
        let given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        given.as_ref().map(|given| (given.amount, given.currency.clone()))
    }

    fn note(&self, given: Option<&Given>) {
        *self.given.lock().unwrap_or_else(PoisonError::into_inner) = given.cloned();
    }
}

/// What a payment says of its refunds, as its row stands once it is locked.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub(super) struct Refundable {
    pub(super) transaction_id: Uuid,
    pub(super) account_id: Uuid,
    pub(super) amount: i64,
    pub(super) currency: String,
    pub(super) refunded: i64,
    pub(super) refund_count: i16,
}

/// Why nothing is given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// Nothing is left.
    NothingLeft,
    /// Less is left.
    ExceedsRefundable(Amount),
    /// One refund is left, which must be of all this.
    MustBeTheRest(Amount),
}

impl Refundable {
    /// Refunds what is wanted, and returns how much that is.
    fn give_back(&mut self, wanted: Wanted) -> Result<Amount, Refusal> {
        let left = u64::try_from(self.amount - self.refunded).ok();
        let left = left.and_then(Amount::from_minor_units).ok_or(Refusal::NothingLeft)?;
        let given = match wanted {
            Wanted::Amount(amount) => amount,
            Wanted::Remaining => left,
        };
        if given > left {
            return Err(Refusal::ExceedsRefundable(left));
        }
        if given < left && self.refund_count + 1 >= MAX_REFUNDS {
            return Err(Refusal::MustBeTheRest(left));
        }
        self.refunded += given.minor_units();
        self.refund_count += 1;
        Ok(given)
    }
}

impl Refusal {
    fn problem(self) -> Problem {
        let (detail, left) = match self {
            Self::NothingLeft => ("The payment was refunded in full before.".to_owned(), 0),
            Self::ExceedsRefundable(left) => {
                let left = left.minor_units();
                (format!("Only {left} is left: request that or less, with a new key."), left)
            }
            Self::MustBeTheRest(left) => {
                let left = left.minor_units();
                let before = MAX_REFUNDS - 1;
                (
                    format!(
                        "The payment was refunded {before} times. It takes one refund more, of everything that is \
                         left: request {left}, or \"remaining\": true, with a new key."
                    ),
                    left,
                )
            }
        };
        Problem::new(Kind::RefundRefused).with_detail(detail).with_refundable(left)
    }
}

/// A refund that is made.
#[derive(Debug, Clone)]
pub(super) struct Given {
    pub(super) refund_id: Uuid,
    pub(super) transaction_id: Uuid,
    pub(super) account_id: Uuid,
    pub(super) amount: Amount,
    pub(super) currency: String,
}

/// The answer to it.
#[derive(Serialize)]
struct Refunded {
    status: &'static str,
    refund_id: Uuid,
    transaction_id: Uuid,
    amount: Amount,
}

impl BatchCommand for GiveBack {
    const OPERATION: Operation = Operation::new("refund");

    fn fingerprint(&self) -> Fingerprint {
        let (amount, remaining) = match self.wanted {
            Wanted::Amount(amount) => (Some(amount.minor_units().to_be_bytes()), None),
            Wanted::Remaining => (None, Some(b"true".as_slice())),
        };
        Fingerprint::of(Self::OPERATION)
            .field("transaction_id", self.transaction_id.as_bytes())
            .optional("amount", amount.as_ref().map(<[u8; 8]>::as_slice))
            .optional("remaining", remaining)
    }

    fn locks(&self) -> Option<Uuid> {
        Some(self.transaction_id)
    }

    /// One after the other, on what the ones before have left: neither a statement over all of them nor
    /// one server beside another would see what the others are about to give back.
    async fn execute(
        batch: &[BatchEntry<'_, Self>],
        conn: &mut PgConnection,
    ) -> Result<Vec<Response>, Error> {
        let mut payments = store::lock(conn, batch).await?;
        let mut given = Vec::with_capacity(batch.len());
        let mut responses = Vec::with_capacity(batch.len());
        for BatchEntry { execution, command } in batch {
            let refund = payments
                .get_mut(&(execution.account_id, command.transaction_id))
                .ok_or_else(no_such_payment)
                .and_then(|payment| {
                    let amount = payment.give_back(command.wanted).map_err(Refusal::problem)?;
                    Ok(Given {
                        refund_id: execution.id,
                        transaction_id: command.transaction_id,
                        account_id: execution.account_id,
                        amount,
                        currency: payment.currency.clone(),
                    })
                });
            given.extend(refund.as_ref().ok().cloned());
            command.note(refund.as_ref().ok());
            let response = match refund {
                Ok(refund) => response(&refund),
                Err(refusal) => refusal.stored(execution.id),
            };
            responses.push(response.map_err(Error::other)?);
        }
        if !given.is_empty() {
            store::insert(conn, &given).await?;
        }
        Ok(responses)
    }
}

/// Stored: the payment may be created later, and this key stays refused.
pub(crate) fn no_such_payment() -> Problem {
    Problem::new(Kind::NotFound).with_retry(Retry::NewKey).with_detail(
        "This account has no payment with this id. Nothing was refunded with this key, and nothing will be: it stays \
         refused. Send a corrected request with a new key.",
    )
}

fn response(given: &Given) -> Result<Response, serde_json::Error> {
    let Given { refund_id, transaction_id, amount, .. } = *given;
    let body =
        serde_json::to_vec(&Refunded { status: "success", refund_id, transaction_id, amount })?;
    Ok(Response::new(201, body).with_header("location", location(transaction_id)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn paid(amount: i64) -> Refundable {
        let (transaction_id, account_id) = (Uuid::nil(), Uuid::nil());
        let currency = "USD".to_owned();
        Refundable { transaction_id, account_id, amount, currency, refunded: 0, refund_count: 0 }
    }

    fn amount(units: u64) -> Amount {
        Amount::from_minor_units(units).unwrap()
    }

    #[test]
    fn the_last_refund_that_a_payment_takes_is_of_all_that_is_left() {
        let mut payment = paid(1000);
        for _ in 1..MAX_REFUNDS {
            assert_eq!(payment.give_back(Wanted::Amount(amount(1))), Ok(amount(1)));
        }
        let rest = amount(901);
        assert_eq!(
            payment.give_back(Wanted::Amount(amount(900))),
            Err(Refusal::MustBeTheRest(rest))
        );
        assert_eq!(
            payment.give_back(Wanted::Amount(amount(902))),
            Err(Refusal::ExceedsRefundable(rest))
        );
        assert_eq!(payment.clone().give_back(Wanted::Amount(rest)), Ok(rest));
        assert_eq!(payment.give_back(Wanted::Remaining), Ok(rest));
        assert_eq!(payment.give_back(Wanted::Remaining), Err(Refusal::NothingLeft));
    }

    proptest! {
        #[test]
        fn no_more_is_given_back_than_was_paid(
            paid_amount in 1..1000_i64, wanted in prop::collection::vec(prop::option::of(1..400_u64), 0..150)
        ) {
            let mut payment = paid(paid_amount);
            let mut sum = 0;
            for wanted in wanted {
                let left = paid_amount - sum;
                match payment.give_back(wanted.map_or(Wanted::Remaining, |units| Wanted::Amount(amount(units)))) {
                    Ok(given) => {
                        sum += given.minor_units();
                        if let Some(wanted) = wanted {
                            prop_assert_eq!(given, amount(wanted));
                        }
                    }
                    Err(Refusal::NothingLeft) => prop_assert_eq!(left, 0),
                    Err(Refusal::ExceedsRefundable(refundable)) => {
                        prop_assert_eq!(refundable.minor_units(), left);
                        prop_assert!(wanted.is_some_and(|wanted| amount(wanted) > refundable));
                    }
                    Err(Refusal::MustBeTheRest(refundable)) => {
                        prop_assert_eq!(refundable.minor_units(), left);
                    }
                }
                prop_assert!(sum <= paid_amount && payment.refund_count <= MAX_REFUNDS);
                prop_assert_eq!(payment.refunded, sum);
            }
        }
    }
}
