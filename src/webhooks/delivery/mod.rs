//! Delivery: every event reaches every endpoint of its account, across failures and crashes.
//!
//! - A server **leases** endpoints that have something to deliver (`lease`). Every write names the lease's epoch.
//! - An endpoint is a **cursor** over the feed with a window of 64 events (`cursor`, `track`). What is begun and not
//!   stored is repeated after a crash, and nothing else.
//! - A delivery that fails becomes a **failure** in the commit that lets the cursor pass it (`failures`). It is
//!   attempted again by the `schedule`, and later events of its payment wait behind it.
//! - A **breaker** stops calls to an endpoint that fails (`breaker`).
//!
//! The `agenda` decides all of that without a clock, a network or a database. A `worker` per endpoint does what its
//! agenda says. One `coordinator` per server stores what all workers did, in shared commits.

mod agenda;
mod breaker;
mod changes;
mod coordinator;
mod cursor;
mod facts;
mod failures;
mod figures;
mod lease;
mod reader;
mod schedule;
mod store;
mod track;
mod worker;
mod write;

use std::{io, sync::Arc, thread};

use log::error;
use sqlx::postgres::PgConnectOptions;
use tokio::{
    sync::{mpsc, oneshot},
    task::{LocalSet, spawn_local},
};

use self::{
    coordinator::{Coordinator, WRITES},
    reader::Reader,
    worker::Shared,
};
use super::{Guard, secrets::Keyring};
use crate::{events::Wakes, metrics::Webhooks};

/// The delivery of a server, in a thread of its own: calls must not delay commits of payments.
pub struct Delivery {
    stop: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
}

impl Delivery {
    /// Starts delivering. Without means to call, only the metrics are kept.
    ///
    /// # Errors
    /// When the operating system has no thread.
    pub fn start(
        options: &PgConnectOptions,
        means: Option<(Keyring, Guard)>,
        metrics: Webhooks,
        wakes: Wakes,
    ) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let (ends, ended) = oneshot::channel();
        let options = options.clone();
        thread::Builder::new().name("webhooks".to_owned()).spawn(move || {
            LocalSet::new().block_on(&runtime, deliver(options, means, metrics, wakes, stopped));
            let _ = ends.send(());
        })?;
        Ok(Self { stop, ended })
    }

    /// Stops after the calls that are under way, within some seconds, and releases the leases.
    pub async fn stop(self) {
        let _ = self.stop.send(());
        if self.ended.await.is_err() {
            error!("webhooks: delivery ended by a panic");
        }
    }
}

async fn deliver(
    options: PgConnectOptions,
    means: Option<(Keyring, Guard)>,
    metrics: Webhooks,
    wakes: Wakes,
    stopped: oneshot::Receiver<()>,
) {
    let reader = Arc::new(Reader::new(options.clone()));
    let keys = means.as_ref().map(|(keyring, _)| keyring.key_ids()).unwrap_or_default();
    let watching = spawn_local(figures::forever(Arc::clone(&reader), keys, metrics.clone()));
    match means {
        Some((keyring, guard)) => {
            let (writes, written) = mpsc::channel(WRITES);
            let shared = Shared { reader, writes, metrics, wakes };
            Coordinator::new(&options, keyring, guard, shared).run(written, stopped).await;
        }
        None => drop(stopped.await),
    }
    watching.abort();
}
