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
    config::{Settings, Switch},
    db::{self, MigrationError, Unmigrated, sweep},
    events::{
        self,
        sequencer::task::{Committed, Sequencer},
        set_announcing,
    },
    http::{Connections, listen, middleware::middleware},
    idempotency::{self, UnfitServer},
    routes,
    state::AppState,
    webhooks::{Guard, SystemResolver, delivery::Delivery, reseal},
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
    /// Webhooks can't be delivered.
    #[error("can't deliver webhooks: {0}")]
    Webhooks(io::Error),
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
    state: web::Data<AppState>,
    sweeper: Option<JoinHandle<()>>,
    sequencer: Option<JoinHandle<()>>,
    delivery: Option<Delivery>,
    shutdown_delay: Duration,
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
        let committed = (settings.events == Switch::On).then(Committed::default);
        let state = AppState::start(settings, options, committed.as_ref()).await?;
        let state = web::Data::new(state);
        let metrics = serve_metrics(settings, &state)?;
        let metrics_routes =
            if metrics.is_none() { routes::metrics } else { |_: &mut web::ServiceConfig| {} };
        let limit = usize::try_from(settings.connection_limit).unwrap_or(usize::MAX);
        let connections = connections(settings, limit, workers(settings));
        let address = format!("{}:{}", bracketed(&settings.host), settings.port);
        let shared = state.clone();
        let (addresses, http) = listen(&address, connections, move || {
            App::new()
                .app_data(shared.clone())
                .wrap(from_fn(middleware))
                .configure(metrics_routes)
                .configure(routes::configure)
        })
        .map_err(|source| StartError::Listen { address, example: "PORT=5050", source })?;
        let sweeps = state.metrics.sweeps();
        rt::spawn(events::wait::forever(state.clone()));
        let delivery = deliver(settings, options, &state)?;
        rt::spawn(reseal::at_start(options.clone(), settings.webhook_secret.clone()));
        Ok(Self {
            addresses,
            http: http.handle(),
            http_ended: rt::spawn(http),
            metrics,
            sequencer: committed.map(|committed| {
                let (wakes, counters) = (state.wakes.clone(), state.metrics.sequencing());
                let options = options.clone();
                rt::spawn(Sequencer { options, committed, wakes, counters }.run())
            }),
            state,
            sweeper: settings.sweep_interval.0.map(|pause| {
                rt::spawn(sweep::forever(settings.clone(), options.clone(), pause, sweeps))
            }),
            delivery: Some(delivery),
            shutdown_delay: settings.shutdown_delay,
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

    /// Returns whether there has ever been an API key, which ends anonymous calls.
    #[must_use]
    pub fn had_api_keys(&self) -> bool {
        self.state.authenticator.had_keys()
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
        self.state.stopping.begin();
        sleep(self.shutdown_delay).await;
        let end = Instant::now() + self.state.request_deadline + STOPPING_MARGIN;
        if let Some(sweeper) = &self.sweeper {
            sweeper.abort();
        }
        let delivery = self.delivery.take();
        tokio::join!(self.http.stop(true), async {
            if let Some(delivery) = delivery {
                delivery.stop().await;
            }
        });
        if let Err(error) = self.ended().await {
            warn!("the HTTP server ended with an error: {error}");
        }
        // Nobody waits for these any more. Commands that have begun are committed while there is time.
        self.state
            .engine
            .close(end.saturating_duration_since(Instant::now()).max(STOPPING_MARGIN / 2))
            .await;
        if let Some(sequencer) = &self.sequencer {
            sequencer.abort();
        }
        if let Some((_, metrics)) = &self.metrics {
            metrics.stop(false).await;
        }
        let _ = timeout(STOPPING_MARGIN / 2, self.state.close()).await;
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

/// Starts delivering webhooks, if `WEBHOOK_SECRET` is set.
fn deliver(
    settings: &Settings,
    options: &PgConnectOptions,
    state: &AppState,
) -> Result<Delivery, StartError> {
    let networks = settings.webhook_allowed_networks.clone().unwrap_or_default();
    let guard = Guard::new(networks, SystemResolver);
    let means = settings.webhook_secret.clone().map(|keyring| (keyring, guard));
    Delivery::start(options, means, state.metrics.webhooks(), state.wakes.clone())
        .map_err(StartError::Webhooks)
}

/// Migrates the database, or checks that it is migrated. Without events it then says so there; with events the sequencer
/// does.
async fn prepare(settings: &Settings, options: &PgConnectOptions) -> Result<(), StartError> {
    let unreachable = |error| StartError::Database(UnfitServer::Unreachable(error).into());
    if settings.auto_migrate {
        db::migrate(options).await?;
    } else {
        db::refuse_shared_sessions(options).await.map_err(unreachable)?;
        let mut conn = db::connect(options).await.map_err(unreachable)?;
        db::migrated(&mut conn).await.map_err(unreachable)??;
    }
    if settings.events == Switch::Off {
        let mut conn = db::connect(options).await.map_err(unreachable)?;
        set_announcing(&mut conn, false).await.map_err(unreachable)?;
    }
    Ok(())
}

/// Serves the metrics, and nothing else, at their own address if they have one.
fn serve_metrics(
    settings: &Settings,
    state: &web::Data<AppState>,
) -> Result<Option<(Vec<SocketAddr>, ServerHandle)>, StartError> {
    let Some(address) = settings.metrics_address else { return Ok(None) };
    let state = state.clone();
    let connections = connections(settings, METRICS_CONNECTIONS, 1);
    let (addresses, http) = listen(address, connections, move || {
        App::new()
            .app_data(state.clone())
            .wrap(from_fn(middleware))
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
