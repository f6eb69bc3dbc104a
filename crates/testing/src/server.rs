//! A server in a thread of its own, as `payonce serve` would run it.

use std::{ops::Deref, sync::Arc, thread};

use clap::{Args, Command, FromArgMatches};
use payonce::{config::Settings, server::Server};
use reqwest::header::HeaderMap;
use sqlx::postgres::PgConnectOptions;
use tokio::sync::oneshot;

use super::{
    client::{Client, http_client},
    database::TestDatabase,
};

/// Settings as they are by default, with these flags. Of the environment only `MAX_BATCH` and
/// `COMMITTERS` count, so that the whole suite can be run in another shape.
pub fn settings(flags: &[&str]) -> Settings {
    let command = Settings::augment_args(Command::new("test")).mut_args(|arg| {
        let shape = arg.get_env().is_some_and(|name| name == "MAX_BATCH" || name == "COMMITTERS");
        if shape { arg } else { arg.env(None) }
    });
    let flags = ["test", "--port", "0"].iter().chain(flags);
    Settings::from_arg_matches(&command.get_matches_from(flags)).unwrap()
}

/// A server, called as its [`Client`] is, and stopped when the test is over.
pub struct TestServer {
    /// Without an API key; for an account, see
    /// [`Account`](super::accounts::Account).
    pub anonymous: Client,
    /// Reads `/metrics`, also at an address of its own.
    pub metrics: Client,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
    /// After the server: it must be gone before its database is.
    pub database: Arc<TestDatabase>,
}

impl TestServer {
    /// A server with the default settings on a database of its own.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// A server with these flags on a database of its own.
    pub async fn start_with(flags: &[&str]) -> Self {
        Self::start_on(&Arc::new(TestDatabase::create().await), flags).await
    }

    /// A server with these flags on this database.
    pub async fn start_on(database: &Arc<TestDatabase>, flags: &[&str]) -> Self {
        Self::start_through(database, &database.options, flags).await
    }

    /// A server that reaches its database by another way.
    pub async fn start_through(
        database: &Arc<TestDatabase>,
        options: &PgConnectOptions,
        flags: &[&str],
    ) -> Self {
        let settings = settings(flags);
        let options = options.clone();
        let (started, addresses) = oneshot::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::spawn(move || {
            actix_web::rt::System::new().block_on(async move {
                let server = Server::start(&settings, &options).await.unwrap();
                let address = server.addresses()[0];
                let metrics = server.metrics_addresses().first().copied();
                started.send((address, metrics.unwrap_or(address))).unwrap();
                let _ = stopped.await;
                server.stop().await;
            });
        });
        let (address, metrics) = addresses.await.expect("the server starts");
        let http = http_client(HeaderMap::new());
        Self {
            anonymous: Client { address, http: http.clone() },
            metrics: Client { address: metrics, http },
            stop: Some(stop),
            thread: Some(thread),
            database: Arc::clone(database),
        }
    }

    /// Another server on the same database.
    pub async fn another(&self) -> Self {
        Self::start_on(&self.database, &[]).await
    }

    /// Stops it, as SIGTERM would. Idle connections don't hold it up.
    pub fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the server stops in order");
        }
    }
}

impl Deref for TestServer {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.anonymous
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.stop();
    }
}
