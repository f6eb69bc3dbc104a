//! Who is calling.

use std::future::{Ready, ready};

use actix_web::{FromRequest, HttpRequest, dev::Payload};
use uuid::Uuid;

use crate::problem::Problem;

/// The account of everybody, until accounts exist.
pub const DEFAULT_ACCOUNT: Uuid = Uuid::nil();

/// Whose request this is. Keys, payments and lists of different accounts never meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// The account that the request acts for.
    pub account_id: Uuid,
}

impl FromRequest for Caller {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(_: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Ok(Self { account_id: DEFAULT_ACCOUNT }))
    }
}
