//! An engine on a database of its own.

use std::{sync::Arc, time::Duration};

use futures_util::future::join;
use payonce_idempotency::{
    AccountId, BatchCommand, Engine, Failure, IdempotencyKey, Observer, Outcome, Settings, migrate,
};
use payonce_testing::TestDatabase;
use sqlx::postgres::PgConnectOptions;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::{Instant, sleep},
};
use uuid::Uuid;

use crate::commands::{Act, Effect, Gate};

/// A bound that only ends a hang.
pub const PATIENCE: Duration = Duration::from_mins(1);

pub fn key(name: &str) -> IdempotencyKey {
    IdempotencyKey::parse(name.as_bytes()).unwrap()
}

pub fn is_replay(outcome: &Result<Outcome, Failure>) -> bool {
    matches!(outcome, Ok(Outcome::Replay { .. }))
}

pub fn is_new(outcome: &Result<Outcome, Failure>) -> bool {
    matches!(outcome, Ok(Outcome::New { .. }))
}

pub struct Layer {
    pub engine: Engine,
    pub database: Arc<TestDatabase>,
}

impl Layer {
    pub async fn start() -> Self {
        Self::start_with(Settings::default()).await
    }

    pub async fn start_with(settings: Settings) -> Self {
        let database = Arc::new(TestDatabase::create_empty().await);
        migrate(&mut database.connect().await).await.unwrap();
        database
            .execute(
                "CREATE TABLE effects (execution_id uuid PRIMARY KEY); CREATE SEQUENCE attempts",
            )
            .await;
        let engine = Engine::start(&database.options, &settings).await.unwrap();
        Self { engine, database }
    }

    /// The same database, reached in another way.
    pub async fn through(mut self, options: &PgConnectOptions, settings: &Settings) -> Self {
        self.engine = Engine::start(options, settings).await.unwrap();
        self
    }

    /// The same database, with an observer.
    pub async fn observed(
        mut self,
        options: &PgConnectOptions,
        observer: Arc<dyn Observer>,
    ) -> Self {
        let settings = Settings::default();
        self.engine = Engine::start_observed(options, &settings, observer).await.unwrap();
        self
    }

    /// The same database, with these settings and an observer.
    pub async fn with(mut self, settings: &Settings, observer: Arc<dyn Observer>) -> Self {
        let options = &self.database.options;
        self.engine = Engine::start_observed(options, settings, observer).await.unwrap();
        self
    }

    pub async fn submit(&self, name: &str, act: Act) -> Result<Outcome, Failure> {
        self.run(name, Effect(act)).await
    }

    /// Submits a command of any type.
    pub async fn run<C: BatchCommand>(&self, name: &str, command: C) -> Result<Outcome, Failure> {
        self.engine.submit(AccountId::DEFAULT, key(name), command).await
    }

    /// Has a command executed until it is released: what is submitted meanwhile waits.
    pub async fn hold(&self) -> Held {
        let gate: &'static Gate = Box::leak(Box::default());
        let (key, engine) = (key(&Uuid::now_v7().to_string()), self.engine.clone());
        let task = tokio::spawn(async move {
            engine.submit(AccountId::DEFAULT, key, Effect(Act::Hold(gate))).await.unwrap();
        });
        gate.entered().await;
        Held { gate, task }
    }

    /// Submits all of this while another command is executed, so that it shares the transactions that follow.
    pub async fn together<T>(&self, submitted: impl Future<Output = T>) -> T {
        let held = self.hold().await;
        // Polled in this order: everything is in the queue before the other command goes on.
        join(submitted, held.release()).await.0
    }

    /// Waits until so many keys wait or are being executed.
    pub async fn until_queued(&self, keys: usize) {
        let begun = Instant::now();
        while self.engine.queued() != keys {
            assert!(begun.elapsed() < PATIENCE, "{} keys, not {keys}", self.engine.queued());
            sleep(Duration::from_millis(1)).await;
        }
    }

    pub async fn effects(&self) -> i64 {
        self.database.number("SELECT count(*) FROM effects").await
    }
}

/// A command that is being executed.
pub struct Held {
    gate: &'static Gate,
    task: JoinHandle<()>,
}

impl Held {
    /// Lets it go on, and waits for its outcome.
    pub async fn release(self) {
        self.gate.open();
        self.task.await.unwrap();
    }
}

/// Options to reach a database through a proxy that delays each new connection.
pub async fn slow_to_connect(options: &PgConnectOptions, delay: Duration) -> PgConnectOptions {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = format!("{}:{}", options.get_host(), options.get_port());
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let server = server.clone();
            tokio::spawn(async move {
                sleep(delay).await;
                let mut server = TcpStream::connect(server).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    options.clone().host("127.0.0.1").port(port)
}
