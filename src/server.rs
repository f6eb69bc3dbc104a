//! Assembles the server, and stops its parts in the right order.

use std::{io, net::SocketAddr, num::NonZero, time::Duration};

use actix_web::{App, dev::ServerHandle, middleware::from_fn, rt, web};
use log::warn;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sqlx::postgres::PgConnectOptions;
use thiserror::Error;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use crate::{
    accounts::{Authenticator, Directory},
    config::Settings,
    db::{self, MigrationError, Needs, Reads, Unmigrated, sweep},
    health::{Readiness, Stopping},
    http::{
        Connections,
        idempotent::Keyed,
        listen,
        middleware::{BodyLimits, exchange},
    },
    idempotency::{self, Engine, UnfitServer},
    keys::policy::IdempotencyPolicy,
    metrics::{Metrics, access::Access},
    payments::http::DefaultCurrency,
    routes,
};

/// Open files besides clients' connections: connections to the database, and the process's own.
const OTHER_FILES: u64 = 100;

/// Connections to the metrics' own address: enough for readers, and too few to exhaust open files.
const METRICS_CONNECTIONS: usize = 16;

/// Time to stop beyond the deadline of the last request.
const STOPPING_MARGIN: Duration = Duration::from_secs(2);

/// Reasons why a server does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The migration failed.
    #[error("can't migrate the database: {0}")]
    Migration(#[from] MigrationError),
    /// The schema does not fit, and `AUTO_MIGRATE` is off.
    #[error("{0}{alternative}", alternative = alternative(.0))]
    Unmigrated(#[from] Unmigrated),
    /// PostgreSQL is unreachable or unfit.
    #[error("{0}{hint}", hint = hint(.0))]
    Database(#[from] idempotency::StartError),
    /// Two metrics have the same name: a defect.
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
    /// The server can't listen on the address.
    #[error("can't listen on {address}: {source}{}", advice(.source, .example))]
    Listen {
        /// The address.
        address: String,
        /// Its setting with another value.
        example: &'static str,
        /// The operating system's error.
        source: io::Error,
    },
}

fn advice(error: &io::Error, example: &str) -> String {
    if error.kind() == io::ErrorKind::AddrInUse {
        format!(". Another program listens there: choose a free port, as in {example}")
    } else {
        String::new()
    }
}

/// Returns another way to a usable database, if there is one.
fn alternative(unmigrated: &Unmigrated) -> &'static str {
    match unmigrated {
        Unmigrated::Lacking(_) => ", or set AUTO_MIGRATE=true",
        Unmigrated::Elsewhere(..) | Unmigrated::Foreign(_) => "",
    }
}

/// Returns the setting that accepts an unfit server, if there is one.
pub(crate) fn hint(unfit: &idempotency::StartError) -> &'static str {
    match unfit {
        idempotency::StartError::Server(UnfitServer::LosesCommits(_)) => {
            ". Turn it on, or set ALLOW_ASYNCHRONOUS_COMMIT=true to accept the loss"
        }
        idempotency::StartError::Server(UnfitServer::LockTable { .. }) => {
            " (the settings MAX_BATCH and COMMITTERS)"
        }
        _ => "",
    }
}

/// A running server.
pub struct Server {
    addresses: Vec<SocketAddr>,
    http: ServerHandle,
    http_ended: JoinHandle<io::Result<()>>,
    metrics: Option<(Vec<SocketAddr>, ServerHandle)>,
    engine: Engine,
    reads: Reads,
    readiness: web::Data<Readiness>,
    authenticator: web::Data<Authenticator>,
    sweeper: Option<JoinHandle<()>>,
    stopping: web::Data<Stopping>,
    shutdown_delay: Duration,
    deadline: Duration,
}

impl Server {
    /// Starts a server on an actix runtime.
    ///
    /// # Errors
    /// When the database or the address is unusable.
    pub async fn start(
        settings: &Settings,
        options: &PgConnectOptions,
    ) -> Result<Self, StartError> {
        prepare(settings, options).await?;
        let metrics = web::Data::new(Metrics::new(settings.queue_limit.get())?);
        let named = db::named(options.clone(), "payonce");
        let engine =
            Engine::start_observed(&named, &settings.idempotency(), metrics.observer()).await?;
        let reads = Reads::new(options, settings.read_connections, settings.request_deadline / 2);
        let keyed = web::Data::new(Keyed {
            engine: engine.clone(),
            replay_status: settings.idempotency_replay_status,
            key_ttl: settings.idempotency_key_ttl.0,
            request_deadline: settings.request_deadline,
        });
        let default_currency = web::Data::new(DefaultCurrency(settings.default_currency));
        let policy = web::Data::new(IdempotencyPolicy::new(settings));
        let reads_data = web::Data::new(reads.clone());
        let needs = Needs {
            frees_keys: settings.idempotency_key_ttl.0.is_some(),
            allow_asynchronous_commit: settings.allow_asynchronous_commit,
        };
        let readiness = Readiness::new(options, settings.request_deadline / 2, needs);
        let readiness = web::Data::new(readiness);
        let readiness_data = readiness.clone();
        let deadline = settings.request_deadline;
        let unreadable = |error| StartError::Database(UnfitServer::Unreachable(error).into());
        let directory = Directory::start(options).await.map_err(unreadable)?;
        let authenticator =
            web::Data::new(Authenticator::new(directory, settings.anonymous_access, deadline));
        let authenticator_data = authenticator.clone();
        let limits = web::Data::new(BodyLimits {
            size: usize::try_from(settings.body_limit).unwrap_or(usize::MAX),
            time: settings.body_timeout,
        });
        let stopping = web::Data::new(Stopping::default());
        let stopping_data = stopping.clone();
        let limit = usize::try_from(settings.connection_limit).unwrap_or(usize::MAX);
        let workers = workers(settings);
        let sweeps = metrics.sweeps();
        let on_main = settings.metrics_address.is_none();
        let access = web::Data::new(access(settings));
        let engine_data = web::Data::new(engine.clone());
        let metrics_server = serve_metrics(settings, &metrics, &engine_data, &limits, &stopping)?;
        let address = format!("{}:{}", bracketed(&settings.host), settings.port);
        let connections = connections(settings, limit, workers);
        let (addresses, http) = listen(&address, connections, move || {
            App::new()
                .app_data(keyed.clone())
                .app_data(reads_data.clone())
                .app_data(readiness_data.clone())
                .app_data(default_currency.clone())
                .app_data(authenticator_data.clone())
                .app_data(limits.clone())
                .app_data(stopping_data.clone())
                .app_data(policy.clone())
                .app_data(access.clone())
                .app_data(engine_data.clone())
                .app_data(metrics.clone())
                .wrap(from_fn(exchange))
                .configure(if on_main { routes::metrics } else { |_: &mut web::ServiceConfig| {} })
                .configure(routes::configure)
        })
        .map_err(|source| StartError::Listen { address, example: "PORT=5050", source })?;
        Ok(Self {
            addresses,
            http: http.handle(),
            http_ended: rt::spawn(http),
            metrics: metrics_server,
            engine,
            reads,
            readiness,
            authenticator,
            sweeper: settings.sweep_interval.0.map(|pause| {
                rt::spawn(sweep::forever(settings.clone(), options.clone(), pause, sweeps))
            }),
            stopping,
            shutdown_delay: settings.shutdown_delay,
            deadline,
        })
    }

    /// The addresses that the server listens on.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The addresses of the metrics, if they have their own.
    #[must_use]
    pub fn metrics_addresses(&self) -> &[SocketAddr] {
        self.metrics.as_ref().map_or(&[], |(addresses, _)| addresses)
    }

    /// Whether there has ever been an API key, which ends anonymous calls.
    #[must_use]
    pub fn had_api_keys(&self) -> bool {
        self.authenticator.had_keys()
    }

    /// Waits until the server serves no HTTP any more. Without `stop`, that is a defect or a lack of threads. Await it once.
    ///
    /// # Errors
    /// The reason.
    pub async fn ended(&mut self) -> io::Result<()> {
        (&mut self.http_ended).await.unwrap_or_else(|panic| Err(io::Error::other(panic)))
    }

    /// Stops the server.
    ///
    /// 1. For `SHUTDOWN_DELAY` it serves, but is not ready, and each response closes its connection, so that load
    ///    balancers choose other servers.
    /// 2. It accepts no more connections, commits and answers the accepted requests, and closes. This takes at most
    ///    `REQUEST_DEADLINE` and four seconds. A request whose body is incomplete then is cut off.
    pub async fn stop(mut self) {
        self.stopping.begin();
        sleep(self.shutdown_delay).await;
        let end = Instant::now() + self.deadline + STOPPING_MARGIN;
        if let Some(sweeper) = &self.sweeper {
            sweeper.abort();
        }
        self.http.stop(true).await;
        if let Err(error) = self.ended().await {
            warn!("the HTTP server ended with an error: {error}");
        }
        // Nobody waits for these any more. Commands that have begun are committed while there is time.
        self.engine
            .close(end.saturating_duration_since(Instant::now()).max(STOPPING_MARGIN / 2))
            .await;
        if let Some((_, metrics)) = &self.metrics {
            metrics.stop(false).await;
        }
        let closing = async {
            tokio::join!(self.reads.close(), self.readiness.close(), self.authenticator.close())
        };
        let _ = timeout(STOPPING_MARGIN / 2, closing).await;
    }
}

/// Returns the number of HTTP threads: the cores that the committers leave. One more slows new payments, because the
/// committer's thread then waits for a core.
fn workers(settings: &Settings) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    cores.saturating_sub(settings.committers.get()).max(1)
}

fn connections(settings: &Settings, limit: usize, workers: usize) -> Connections {
    Connections {
        limit,
        workers,
        keep_alive: settings.keep_alive,
        header_timeout: settings.header_timeout,
        body_limit: settings.body_limit.into(),
        shutdown_timeout: settings.request_deadline + STOPPING_MARGIN,
    }
}

/// Raises the limit of open files as far as possible, and warns if it stays too low.
pub fn raise_file_limit(settings: &Settings) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let limit = if raised.is_ok() { maximum } else { current };
    let wanted = u64::from(settings.connection_limit) + OTHER_FILES;
    if let Some(limit) = limit.filter(|limit| *limit < wanted) {
        warn!(
            "the process may open {limit} files, and CONNECTION_LIMIT ({}) needs {wanted}: raise ulimit -n, or lower the setting",
            settings.connection_limit
        );
    }
}

/// Migrates the database, or checks that it is migrated.
async fn prepare(settings: &Settings, options: &PgConnectOptions) -> Result<(), StartError> {
    if settings.auto_migrate {
        return Ok(db::migrate(options).await?);
    }
    let unreachable = |error| StartError::Database(UnfitServer::Unreachable(error).into());
    db::refuse_shared_sessions(options).await.map_err(unreachable)?;
    let mut conn = db::connect(options).await.map_err(unreachable)?;
    Ok(db::migrated(&mut conn).await.map_err(unreachable)??)
}

/// Decides who may read the metrics.
fn access(settings: &Settings) -> Access {
    match &settings.metrics_token {
        Some(token) => Access::Token(token.clone()),
        None if settings.metrics_address.is_some() => Access::Everybody,
        None => Access::Local,
    }
}

/// Serves the metrics, and nothing else, at their own address if they have one.
fn serve_metrics(
    settings: &Settings,
    metrics: &web::Data<Metrics>,
    engine: &web::Data<Engine>,
    limits: &web::Data<BodyLimits>,
    stopping: &web::Data<Stopping>,
) -> Result<Option<(Vec<SocketAddr>, ServerHandle)>, StartError> {
    let Some(address) = settings.metrics_address else { return Ok(None) };
    let access = web::Data::new(access(settings));
    let (metrics, engine) = (metrics.clone(), engine.clone());
    let (limits, stopping) = (limits.clone(), stopping.clone());
    let connections = connections(settings, METRICS_CONNECTIONS, 1);
    let (addresses, http) = listen(address, connections, move || {
        App::new()
            .app_data(access.clone())
            .app_data(engine.clone())
            .app_data(metrics.clone())
            .app_data(limits.clone())
            .app_data(stopping.clone())
            .wrap(from_fn(exchange))
            .configure(routes::metrics)
            .default_service(web::to(routes::not_found))
    })
    .map_err(|source| StartError::Listen {
        address: address.to_string(),
        example: "METRICS_ADDRESS=127.0.0.1:9101",
        source,
    })?;
    let handle = http.handle();
    rt::spawn(async move {
        if let Err(error) = http.await {
            warn!("the metrics' server ended with an error: {error}");
        }
    });
    Ok(Some((addresses, handle)))
}

/// An IPv6 address as it stands before a port.
fn bracketed(host: &str) -> String {
    if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() }
}
