//! A storm for sceptics: payments with deliberate retries, duplicates at once, hang-ups and wrong reuse of
//! keys, and a judgement of whether each was made exactly once.
//!
//! It knows of a server only what every client knows, its HTTP contract, and nothing of the server's code.
//! While it goes on, servers, databases and networks may be killed.
//!
//! # What it finds
//!
//! - A key that is answered as new more than once, or in more than one way, or with another's payment.
//! - A key that takes another payment after its own.
//! - A payment that was answered and isn't there, and one that is there or listed twice, or that nobody asked
//!   for: all that the storm's users have is read back at the end, by a list for each of them.
//!
//! # What it doesn't
//!
//! Payments whose answer was not waited for to the end, as when servers stay away for longer than its
//! patience: it gives up then, and says so. And whatever a server does with the payments of others.

mod books;
mod client;
mod connection;
mod intents;
mod report;
mod target;

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
    intents::{Intents, Names},
};

/// What a storm is to be.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Servers on one database, used in turn; at least one.
    pub targets: Vec<Target>,
    /// How many payments to intend.
    pub payments: u32,
    /// How many at the same time.
    pub clients: u16,
    /// How long to go on with one request before it counts as never answered.
    pub patience: Duration,
    /// What to show as `Authorization`.
    pub authorization: Option<HeaderValue>,
}

/// Why a storm can't begin. No payment was made.
#[derive(Debug, Error)]
pub enum NotReady {
    /// Nobody is there.
    #[error("{0} {1}")]
    Unanswered(Target, Unanswered),
    /// It wants an API key, or another one.
    #[error("{0} asks for an API key that is valid: set PAYONCE_API_KEY in the environment")]
    Unauthorized(Target),
    /// Something else is there.
    #[error("{0} answers GET /payment with {1}, as no payonce does")]
    NotPayonce(Target, u16),
}

/// Sends payments and says what became of them. Needs a runtime of actix. `progress` hears how many
/// payments are done, and what is being done.
///
/// # Errors
///
/// When a server isn't ready for it; then no payment was made.
pub async fn run(plan: &Plan, progress: impl Fn(u64, String)) -> Result<Report, NotReady> {
    progress(0, "waiting for the servers".to_owned());
    try_join_all(plan.targets.iter().map(|target| ready(plan, target))).await?;

    let (client, names) = (Client::new(plan, &plan.targets), Names::new());
    let intents = Intents { client: &client, names: &names, heard: RefCell::default() };
    let (next, done) = (Cell::new(0), Cell::new(0));
    let begun = Instant::now();
    join_all((0..plan.clients).map(|_| async {
        // Who has lost patience once needn't lose it with every payment.
        while next.get() < u64::from(plan.payments) && intents.heard.borrow().unanswered.is_empty()
        {
            intents.intend(next.replace(next.get() + 1)).await;
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
    let mut heard = intents.heard.into_inner();
    // By another client: what reads is not counted.
    let there = books::read(&Client::new(plan, &plan.targets), &names).await;
    let books = there.map(|there| books::compare(&mut heard, &names, next.get(), &there));
    Ok(Report::new(next.get(), books, heard, client.traffic.into_inner(), took))
}

/// Waits until there is a payonce that lets us in.
async fn ready(plan: &Plan, target: &Target) -> Result<(), NotReady> {
    let client = Client::new(plan, std::slice::from_ref(target));
    match client.settle(&Request::get("/payment?limit=1".to_owned())).await {
        Ok(answer) if answer.status == 200 => Ok(()),
        Ok(answer) if answer.status == 401 => Err(NotReady::Unauthorized(target.clone())),
        Ok(answer) => Err(NotReady::NotPayonce(target.clone(), answer.status)),
        Err(unanswered) => Err(NotReady::Unanswered(target.clone(), unanswered)),
    }
}
