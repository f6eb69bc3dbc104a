//! Lists of payments: pages, newest first.
//!
//! A page has the payments that are older than the one at which the page before ended, by their ids:
//! the time at which a server took each request in, to the millisecond, by that server's clock.
//!
//! Following `next_cursor` to its end shows every payment that was there when it began once, and none
//! twice, whatever is taken meanwhile. A payment that is committed meanwhile is shown if its id is older
//! than the page that is being read, and not if it is newer: to see what is new, begin again.
//!
//! A page may end before its limit, where its payments have many refunds.

use std::fmt;

use serde::{Serialize, Serializer};
use uuid::Uuid;

use super::{payment::Payment, user_id::UserId};
use crate::{
    http::{problem::Problem, query},
    ids::PaymentId,
};

/// The size of a page if the client names none.
pub const DEFAULT_LIMIT: u8 = 50;

/// A response of some 50 kB, where nothing was refunded.
pub const MAX_LIMIT: u8 = 200;

/// The version of a cursor's format, at its beginning.
const CURSOR_VERSION: char = '1';

/// The request for a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// Whose payments, where not everybody's of the account.
    pub user_id: Option<UserId>,
    /// The greatest number of payments.
    pub limit: u8,
    /// The end of the page before.
    pub cursor: Option<Cursor>,
}

/// The end of a page: the payment of this id. Clients get it as an opaque text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor(pub PaymentId);

/// A page of payments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Page {
    /// The newest first.
    pub payments: Vec<Payment>,
    /// The cursor of the next page; `None` on the last page.
    pub next_cursor: Option<Cursor>,
}

impl Listing {
    /// Reads what is asked for from a query.
    ///
    /// # Errors
    /// `invalid-query`.
    pub fn read(query: &str) -> Result<Self, Problem> {
        let mut parameters = query::read(query)?;
        let user_id =
            parameters.optional("user_id", UserId::EXPECTED, |text| UserId::parse(text.to_owned()));
        let limit = parameters.optional("limit", "a whole number, 1 to 200", |text| {
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|limit| digits && (1..=MAX_LIMIT).contains(limit))
        });
        let cursor = parameters.optional("cursor", "the next_cursor of a page", Cursor::parse);
        parameters.finish(user_id.zip(limit).zip(cursor).map(|((user_id, limit), cursor)| Self {
            user_id,
            limit: limit.unwrap_or(DEFAULT_LIMIT),
            cursor,
        }))
    }
}

impl Cursor {
    /// The cursor in this text; `None` where it isn't one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let id = text.strip_prefix(CURSOR_VERSION)?;
        // The only one of the ways to write a UUID that has this length.
        (id.len() == uuid::fmt::Simple::LENGTH)
            .then(|| Uuid::try_parse(id).ok().map(|id| Self(id.into())))?
    }
}

impl Serialize for Cursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{CURSOR_VERSION}{}", Uuid::from(self.0).simple())
    }
}

impl Page {
    /// A page of these payments; there may be more.
    #[must_use]
    pub fn new(payments: Vec<Payment>, more: bool) -> Self {
        let last = payments.last().filter(|_| more);
        let next_cursor = last.map(|payment| Cursor(payment.transaction_id));
        Self { payments, next_cursor }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_as_it_was() {
        let cursor = Cursor(Uuid::now_v7().into());
        let text: String = serde_json::from_value(serde_json::json!(cursor)).unwrap();
        assert_eq!(Cursor::parse(&text), Some(cursor));
        for text in
            ["", "1", &text[1..], &text[..32], &format!("2{}", &text[1..]), &format!("{text}0")]
        {
            assert_eq!(Cursor::parse(text), None, "{text}");
        }
    }
}
