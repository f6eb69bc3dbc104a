//! The state that the handlers of a server share.

use std::time::Duration;

use sqlx::postgres::PgConnectOptions;

use crate::{
    accounts::{Authenticator, Directory},
    config::{Settings, Switch},
    db::{self, Needs, Reads},
    events::{Wakes, sequencer::task::Committed, wait::Waiters},
    health::{Readiness, Stopping},
    http::{idempotent::ReplayStatus, middleware::BodyLimits},
    idempotency::{Engine, UnfitServer},
    keys::policy::IdempotencyPolicy,
    metrics::{Metrics, access::Access},
    payments::currency::Currency,
    server::StartError,
    webhooks::{Guard, SystemResolver, secrets::Keyring},
};

/// Everything that handlers need besides their request.
pub struct AppState {
    /// Executes commands exactly once.
    pub engine: Engine,
    /// Connections to read with.
    pub reads: Reads,
    /// Authenticates callers.
    pub authenticator: Authenticator,
    /// Checks that requests would be executed.
    pub readiness: Readiness,
    /// True if the server is stopping.
    pub stopping: Stopping,
    /// Wakes those who wait for events.
    pub wakes: Wakes,
    /// Requests that wait for events.
    pub waiters: Waiters,
    /// The counters.
    pub metrics: Metrics,
    /// Who may read the counters.
    pub metrics_access: Access,
    /// Decides which URLs webhooks may be sent to.
    pub guard: Guard,
    /// Encrypts signing secrets of webhook endpoints, if `WEBHOOK_SECRET` is set.
    pub keyring: Option<Keyring>,
    /// The rules for keys, as clients see them.
    pub policy: IdempotencyPolicy,
    /// Bounds of request bodies.
    pub body_limits: BodyLimits,
    /// The currency of payments that name none.
    pub default_currency: Currency,
    /// The status of replays.
    pub replay_status: ReplayStatus,
    /// The lifetime of keys; `None`: permanent.
    pub key_ttl: Option<Duration>,
    /// The time within which a request gets its response.
    pub request_deadline: Duration,
}

impl AppState {
    /// Connects to the database, and starts the committers and the directory of API keys. `committed` learns of commits.
    ///
    /// # Errors
    /// When the database can't be used.
    pub async fn start(
        settings: &Settings,
        options: &PgConnectOptions,
        committed: Option<&Committed>,
    ) -> Result<Self, StartError> {
        let metrics = Metrics::new(settings.queue_limit.get())?;
        let observer = match committed {
            Some(committed) => committed.observer(metrics.observer()),
            None => metrics.observer(),
        };
        let named = db::named(options.clone(), "payonce");
        let engine = Engine::start_observed(&named, &settings.idempotency(), observer).await?;
        let directory = Directory::start(options)
            .await
            .map_err(|error| StartError::Database(UnfitServer::Unreachable(error).into()))?;
        let deadline = settings.request_deadline;
        let needs = Needs {
            frees_keys: settings.idempotency_key_ttl.0.is_some(),
            announces: settings.events == Switch::On,
            allow_asynchronous_commit: settings.allow_asynchronous_commit,
        };
        Ok(Self {
            engine,
            reads: Reads::new(options, settings.read_connections, deadline / 2),
            authenticator: Authenticator::new(directory, settings.anonymous_access, deadline),
            readiness: Readiness::new(options, deadline / 2, needs),
            stopping: Stopping::default(),
            wakes: Wakes::default(),
            waiters: Waiters::new(usize::try_from(settings.connection_limit).unwrap_or(usize::MAX)),
            metrics,
            metrics_access: Access::new(settings),
            guard: Guard::new(
                settings.webhook_allowed_networks.clone().unwrap_or_default(),
                SystemResolver,
            ),
            keyring: settings.webhook_secret.clone(),
            policy: IdempotencyPolicy::new(settings),
            body_limits: BodyLimits {
                size: usize::try_from(settings.body_limit).unwrap_or(usize::MAX),
                time: settings.body_timeout,
            },
            default_currency: settings.default_currency,
            replay_status: settings.idempotency_replay_status,
            key_ttl: settings.idempotency_key_ttl.0,
            request_deadline: deadline,
        })
    }

    /// Closes the connections that don't commit.
    pub async fn close(&self) {
        tokio::join!(self.reads.close(), self.readiness.close(), self.authenticator.close());
    }
}
