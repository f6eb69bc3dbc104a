//! The context of a request, which carries to the log and the response what handlers find out.

use actix_web::{HttpMessage, HttpRequest, http::header::HeaderValue};
use bytes::Bytes;
use uuid::Uuid;

use super::problem::{Problem, Report};
use crate::{idempotency::IdempotencyKey, ids::AccountId, metrics::KeyedOutcome};

/// The facts of a request besides its head. The middleware creates it in the request's extensions, and takes
/// it out to finish the response and to log it.
#[derive(Debug)]
pub struct RequestContext {
    /// The `instance` of the request's problem, and its `request_id` in the log.
    pub(super) id: Uuid,
    /// The body, or the reason why there is none.
    pub(super) body: Result<Bytes, Problem>,
    /// The account that the request acts for.
    pub(super) account_id: Option<AccountId>,
    /// The idempotency key, and the value of its header.
    pub(super) key: Option<(IdempotencyKey, HeaderValue)>,
    /// The outcome of an idempotent request.
    pub(super) outcome: Option<KeyedOutcome>,
    /// The problem in the response.
    pub(super) problem: Option<Report>,
}

impl RequestContext {
    pub(super) fn new(body: Result<Bytes, Problem>) -> Self {
        Self { id: Uuid::new_v4(), body, account_id: None, key: None, outcome: None, problem: None }
    }

    /// Changes the context of this request.
    pub(super) fn update(req: &HttpRequest, change: impl FnOnce(&mut Self)) {
        if let Some(context) = req.extensions_mut().get_mut() {
            change(context);
        }
    }

    /// Sets the account that the request acts for.
    pub fn set_account(req: &HttpRequest, account_id: AccountId) {
        Self::update(req, |context| context.account_id = Some(account_id));
    }

    /// The body of this request.
    ///
    /// # Errors
    /// When it is too large, or does not arrive completely.
    pub(super) fn body(req: &HttpRequest) -> Result<Bytes, Problem> {
        let extensions = req.extensions();
        let Some(Self { body, .. }) = extensions.get() else { return Ok(Bytes::new()) };
        body.clone()
    }
}
