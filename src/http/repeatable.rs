//! Requests that change something and need no idempotency key, because sending them twice does the same as once.

use actix_web::{FromRequest, HttpRequest, dev::Payload};
use bytes::Bytes;
use futures_util::future::LocalBoxFuture;

use super::{
    RequestContext,
    idempotent::{check_media_type, refuse_query},
    problem::Problem,
};
use crate::accounts::Caller;

/// A `PATCH` or `DELETE` whose caller, media type, size and query are valid.
#[derive(Debug)]
pub struct RepeatableRequest {
    /// The caller.
    pub caller: Caller,
    /// The body; empty if there is none.
    pub body: Bytes,
}

impl FromRequest for RepeatableRequest {
    type Error = Problem;
    type Future = LocalBoxFuture<'static, Result<Self, Problem>>;

    fn from_request(req: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let caller = Caller::from_request(req, payload);
        let req = req.clone();
        Box::pin(async move {
            let caller = caller.await?;
            let body = RequestContext::body(&req);
            check_media_type(&req, body.as_ref().is_ok_and(Bytes::is_empty))?;
            let body = body?;
            refuse_query(&req)?;
            Ok(Self { caller, body })
        })
    }
}
