//! The rules of refunds: never more than was paid, and at most a hundred refunds of a payment.

use crate::{
    http::problem::{Kind, Problem},
    ids::{AccountId, PaymentId},
    payments::money::Amount,
};

/// Refunds of one payment at most: each is shown with it. The last one is of everything that is left, so no rest
/// becomes unrefundable. The database checks the same number.
pub const MAX_REFUNDS: i16 = 100;

/// The part of a payment to refund.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// This amount.
    Amount(Amount),
    /// Everything that is left.
    Remaining,
}

/// The locked row of a payment, as far as refunds need it.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub(super) struct Refundable {
    pub(super) transaction_id: PaymentId,
    pub(super) account_id: AccountId,
    pub(super) amount: i64,
    pub(super) currency: String,
    pub(super) refunded: i64,
    pub(super) refund_count: i16,
}

/// Reasons to refund nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Nothing is left.
    NothingLeft,
    /// Less is left.
    ExceedsRefundable(Amount),
    /// One refund is left, which must be of this amount.
    MustBeTheRest(Amount),
}

impl Refundable {
    /// Refunds what is wanted, and returns the amount.
    pub(super) fn refund(&mut self, wanted: Wanted) -> Result<Amount, Refusal> {
        let left = u64::try_from(self.amount - self.refunded).ok();
        let left = left.and_then(Amount::from_minor_units).ok_or(Refusal::NothingLeft)?;
        let amount = match wanted {
            Wanted::Amount(amount) => amount,
            Wanted::Remaining => left,
        };
        if amount > left {
            return Err(Refusal::ExceedsRefundable(left));
        }
        if amount < left && self.refund_count + 1 >= MAX_REFUNDS {
            return Err(Refusal::MustBeTheRest(left));
        }
        self.refunded += amount.minor_units();
        self.refund_count += 1;
        Ok(amount)
    }
}

impl Refusal {
    pub(super) fn problem(self) -> Problem {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use uuid::Uuid;

    use super::*;

    fn paid(amount: i64) -> Refundable {
        let (transaction_id, account_id) = (Uuid::nil().into(), Uuid::nil().into());
        let currency = "USD".to_owned();
        Refundable { transaction_id, account_id, amount, currency, refunded: 0, refund_count: 0 }
    }

    fn amount(units: u64) -> Amount {
        Amount::from_minor_units(units).unwrap()
    }

    #[test]
    fn the_last_refund_of_a_payment_is_of_everything_that_is_left() {
        let mut payment = paid(1000);
        for _ in 1..MAX_REFUNDS {
            assert_eq!(payment.refund(Wanted::Amount(amount(1))), Ok(amount(1)));
        }
        let rest = amount(901);
        assert_eq!(payment.refund(Wanted::Amount(amount(900))), Err(Refusal::MustBeTheRest(rest)));
        assert_eq!(
            payment.refund(Wanted::Amount(amount(902))),
            Err(Refusal::ExceedsRefundable(rest))
        );
        assert_eq!(payment.clone().refund(Wanted::Amount(rest)), Ok(rest));
        assert_eq!(payment.refund(Wanted::Remaining), Ok(rest));
        assert_eq!(payment.refund(Wanted::Remaining), Err(Refusal::NothingLeft));
    }

    proptest! {
        #[test]
        fn no_more_is_refunded_than_was_paid(
            paid_amount in 1..1000_i64, wanted in prop::collection::vec(prop::option::of(1..400_u64), 0..150)
        ) {
            let mut payment = paid(paid_amount);
            let mut sum = 0;
            for wanted in wanted {
                let left = paid_amount - sum;
                match payment.refund(wanted.map_or(Wanted::Remaining, |units| Wanted::Amount(amount(units)))) {
                    Ok(refunded) => {
                        sum += refunded.minor_units();
                        if let Some(wanted) = wanted {
                            prop_assert_eq!(refunded, amount(wanted));
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
