//! Puts the server together, and takes it apart in the right order.

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

/// Files that are open besides clients' connections, at most: to the database, and the process's own.
const OTHER_FILES: u64 = 100;

/// At an address of the metrics' own: more than anybody needs, and no threat to clients' files.
const METRICS_CONNECTIONS: usize = 16;

/// What stopping may take beyond the deadline of the last request.
const STOPPING_MARGIN: Duration = Duration::from_secs(2);

/// Why a server doesn't start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The database can't be migrated.
    #[error("can't migrate the database: {0}")]
    Migration(#[from] MigrationError),
    /// The schema is another one, and `AUTO_MIGRATE` is off.
    #[error("{0}{alternative}", alternative = alternative(.0))]
    Unmigrated(#[from] Unmigrated),
    /// PostgreSQL can't be reached, or isn't fit.
    #[error("{0}{hint}", hint = hint(.0))]
    Database(#[from] idempotency::StartError),
    /// Two metrics have one name: a defect.
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
    /// The server can't listen on the address.
    #[error("can't listen on {address}: {source}{}", advice(.source, .example))]
    Listen {
        /// The address.
        address: String,
        /// The setting that gives it, with another value.
        example: &'static str,
        /// What the operating system says.
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

/// Another way to a database that the server can use, if there is one.
fn alternative(unmigrated: &Unmigrated) -> &'static str {
    match unmigrated {
        Unmigrated::Lacking(_) => ", or set AUTO_MIGRATE=true",
        Unmigrated::Elsewhere(..) | Unmigrated::Foreign(_) => "",
    }
}

/// The setting by which an operator accepts an unfit server, where there is one.
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

/// A server that runs.
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
    /// When the database or the address can't be used.
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

    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where the metrics are served, if that is an address of their own.
    #[must_use]
    pub fn metrics_addresses(&self) -> &[SocketAddr] {
        self.metrics.as_ref().map_or(&[], |(addresses, _)| addresses)
    }

    /// Whether there has ever been an API key: anonymous calls have ended.
    #[must_use]
    pub fn had_api_keys(&self) -> bool {
        self.authenticator.had_keys()
    }

    /// Waits for what doesn't happen unless something is badly wrong, like threads that can't be made: that it serves
    /// no HTTP any more. To be awaited once.
    ///
    /// # Errors
    /// Why it doesn't.
    pub async fn ended(&mut self) -> io::Result<()> {
        (&mut self.http_ended).await.unwrap_or_else(|panic| Err(io::Error::other(panic)))
    }

    /// Stops. For `SHUTDOWN_DELAY` it serves as before, but isn't ready, and closes each connection with
    /// its answer: so those who choose between servers turn to others. Then it accepts nothing more, lets
    /// what was accepted be committed and answered, and closes. That takes no longer than the deadline of a
    /// request and four seconds; a request whose body is still on its way then is cut off.
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
        // Nobody waits for these any more; what has begun is committed while there is time.
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

/// Threads that speak HTTP: the cores that the committers leave. One more makes new payments slower, by up to a
/// fifteenth on two cores, where the thread that commits then waits for its turn.
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

/// Lets this process have as many files open as it may, and says so where that is too few.
pub fn raise_file_limit(settings: &Settings) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let limit = if raised.is_ok() { maximum } else { current };
    let wanted = u64::from(settings.connection_limit) + OTHER_FILES;
    if let Some(limit) = limit.filter(|limit| *limit < wanted) {
        warn!(
            "{limit} files can be open at most, and CONNECTION_LIMIT ({}) needs {wanted}: raise ulimit -n, or lower it",
            settings.connection_limit
        );
    }
}

/// Migrates the database, or makes sure that it is.
async fn prepare(settings: &Settings, options: &PgConnectOptions) -> Result<(), StartError> {
    if settings.auto_migrate {
        return Ok(db::migrate(options).await?);
    }
    let unreachable = |error| StartError::Database(UnfitServer::Unreachable(error).into());
    db::refuse_shared_sessions(options).await.map_err(unreachable)?;
    let mut conn = db::connect(options).await.map_err(unreachable)?;
    Ok(db::migrated(&mut conn).await.map_err(unreachable)??)
}

/// Who may read the metrics.
fn access(settings: &Settings) -> Access {
    match &settings.metrics_token {
        Some(token) => Access::Token(token.clone()),
        None if settings.metrics_address.is_some() => Access::Everybody,
        None => Access::Local,
    }
}

/// Serves the metrics, and nothing else, at an address of their own, where they have one.
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
