//! A server in a thread of the test, with the settings of `payonce serve`.

use std::{ops::Deref, sync::Arc, thread};

use clap::{Args, Command, FromArgMatches};
use payonce::{config::Settings, server::Server, webhooks::secrets::Keyring};
use reqwest::header::HeaderMap;
use sqlx::postgres::PgConnectOptions;
use tokio::sync::oneshot;

use super::{
    client::{Client, http_client},
    database::TestDatabase,
};

/// The `WEBHOOK_SECRET` of test servers.
pub const WEBHOOK_SECRET: &str = "a-webhook-secret-for-test-servers";

/// The default settings with these flags, and [`WEBHOOK_SECRET`]. Of the environment only `MAX_BATCH` and `COMMITTERS` are read, so
/// that all tests can be run with other batches.
pub fn settings(flags: &[&str]) -> Settings {
    let command = Settings::augment_args(Command::new("test")).mut_args(|arg| {
        let shape = arg.get_env().is_some_and(|name| name == "MAX_BATCH" || name == "COMMITTERS");
        if shape { arg } else { arg.env(None) }
    });
    let flags = ["test", "--port", "0"].iter().chain(flags);
    let settings = Settings::from_arg_matches(&command.get_matches_from(flags)).unwrap();
    Settings { webhook_secret: Keyring::parse(WEBHOOK_SECRET).ok(), ..settings }
}

/// A server in this process. It dereferences to its anonymous [`Client`], and stops when it is dropped.
pub struct TestServer {
    /// Sends no API key; for one that does, see [`Account`](super::accounts::Account).
    pub anonymous: Client,
    /// Reads `/metrics`, also where it has its own address.
    pub metrics: Client,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
    /// Dropped last, because the server must stop before its database is dropped.
    pub database: Arc<TestDatabase>,
}

impl TestServer {
    /// Starts a server with the default settings on a new database.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts a server with these flags on a new database.
    pub async fn start_with(flags: &[&str]) -> Self {
        Self::start_on(&Arc::new(TestDatabase::create().await), flags).await
    }

    /// Starts a server with these flags on this database.
    pub async fn start_on(database: &Arc<TestDatabase>, flags: &[&str]) -> Self {
        Self::start_through(database, &database.options, flags).await
    }

    /// Starts a server that connects to its database with other options, for example through a proxy.
    pub async fn start_through(
        database: &Arc<TestDatabase>,
        options: &PgConnectOptions,
        flags: &[&str],
    ) -> Self {
        Self::start_configured(database, options, settings(flags)).await
    }

    /// Starts a server with these settings.
    pub async fn start_configured(
        database: &Arc<TestDatabase>,
        options: &PgConnectOptions,
        settings: Settings,
    ) -> Self {
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

    /// Starts another server on the same database.
    pub async fn another(&self) -> Self {
        Self::start_on(&self.database, &[]).await
    }

    /// Stops the server as SIGTERM does.
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
