//! Sends many payments with deliberate retries, concurrent duplicates, aborted requests and reused keys, and checks that
//! each payment was made exactly once.
//!
//! The storm knows the HTTP contract and none of the server's code. Meanwhile, servers, databases and networks may be
//! stopped.
//!
//! # What it finds
//!
//! - A key with two responses that say "created", with two different responses, or with another payment's response.
//! - A used key that is accepted for another payment.
//! - A payment that a response confirmed and that does not exist, that is listed twice, or that was never intended. For this
//!   it reads the lists of all its users back at the end.
//!
//! # What it does not find
//!
//! - Payments without a final response, for example because servers were stopped for longer than the storm's patience. It
//!   gives up then, and says so.
//! - Effects on payments of other clients.

mod client;
mod connection;
mod reconcile;
mod report;
mod target;
mod workload;

use std::{
    cell::{Cell, RefCell},
    time::Duration,
};

use actix_http::header::HeaderValue;
use futures_util::future::{join_all, try_join_all};
use thiserror::Error;
use tokio::time::Instant;

pub use self::{
    client::Unanswered,
    report::{Latency, NotExactlyOnce, Report},
    target::{InvalidTarget, Target},
};
use self::{
    client::{Client, Request},
    workload::{Names, Workload},
};

/// The plan of a storm.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Servers on one database, used in turn. At least one.
    pub targets: Vec<Target>,
    /// Number of payments.
    pub payments: u32,
    /// Number of payments at a time.
    pub clients: u16,
    /// The time that a request is repeated before it counts as unanswered.
    pub patience: Duration,
    /// The `Authorization` header.
    pub authorization: Option<HeaderValue>,
}

/// A reason why a storm did not begin. No payment was made.
#[derive(Debug, Error)]
pub enum NotReady {
    /// The server does not respond.
    #[error("{0} {1}")]
    Unanswered(Target, Unanswered),
    /// The server requires a valid API key.
    #[error("{0} requires a valid API key: set PAYONCE_API_KEY in the environment")]
    Unauthorized(Target),
    /// Another program listens there.
    #[error("{0} is not payonce: it answers GET /payment with {1}")]
    NotPayonce(Target, u16),
}

/// Runs a storm on an actix runtime. `progress` gets the number of finished payments and the current activity.
///
/// # Errors
///
/// When a server is not ready. No payment was made then.
pub async fn run(plan: &Plan, progress: impl Fn(u64, String)) -> Result<Report, NotReady> {
    progress(0, "waiting for the servers".to_owned());
    try_join_all(plan.targets.iter().map(|target| ready(plan, target))).await?;

    let (client, names) = (Client::new(plan, &plan.targets), Names::new());
    let workload = Workload { client: &client, names: &names, observed: RefCell::default() };
    let (next, done) = (Cell::new(0), Cell::new(0));
    let begun = Instant::now();
    join_all((0..plan.clients).map(|_| async {
        // After the first request that exhausts the patience, more would only exhaust it again.
        while next.get() < u64::from(plan.payments)
            && workload.observed.borrow().unanswered.is_empty()
        {
            workload.pay(next.replace(next.get() + 1)).await;
            done.set(done.get() + 1);
            let traffic = client.traffic.borrow();
            progress(
                done.get(),
                format!("{} requests, {} retries", traffic.requests, traffic.retries),
            );
        }
    }))
    .await;
    let took = begun.elapsed();

    progress(done.get(), "reading them back".to_owned());
    let mut observed = workload.observed.into_inner();
    // With another client: these requests are not counted.
    let existing = reconcile::read(&Client::new(plan, &plan.targets), &names).await;
    let reconciled =
        existing.map(|all| reconcile::reconcile(&mut observed, &names, next.get(), &all));
    Ok(Report::new(next.get(), reconciled, observed, client.traffic.into_inner(), took))
}

/// Waits until the server accepts requests.
async fn ready(plan: &Plan, target: &Target) -> Result<(), NotReady> {
    let client = Client::new(plan, std::slice::from_ref(target));
    match client.send_until_final(&Request::get("/payment?limit=1".to_owned())).await {
        Ok(response) if response.status == 200 => Ok(()),
        Ok(response) if response.status == 401 => Err(NotReady::Unauthorized(target.clone())),
        Ok(response) => Err(NotReady::NotPayonce(target.clone(), response.status)),
        Err(unanswered) => Err(NotReady::Unanswered(target.clone(), unanswered)),
    }
}
