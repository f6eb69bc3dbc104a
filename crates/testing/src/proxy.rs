//! A TCP proxy between a server and PostgreSQL. It understands enough of the wire protocol to recognise the
//! steps of a batch, and can cut, freeze, delay or hold a connection at a step.

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::BytesMut;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::{Notify, watch},
    task::JoinHandle,
    time::timeout,
};

use super::wait::PATIENCE;

/// A step of a batch, which is either a single statement or a transaction of several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// The single statement was sent, but has not reached PostgreSQL.
    StatementSent,
    /// PostgreSQL has executed the single statement, but not received the Sync that commits it.
    StatementExecuted,
    /// PostgreSQL has committed the single statement, but the server does not know.
    StatementCommitted,
    /// BEGIN was sent, but has not reached PostgreSQL.
    Begin,
    /// PostgreSQL has begun the transaction, but the server does not know.
    Begun,
    /// PostgreSQL has claimed the keys, but the server does not know.
    Claimed,
    /// PostgreSQL has looked up used keys, but the server does not know.
    Read,
    /// PostgreSQL has executed the commands, but the server does not know.
    Executed,
    /// PostgreSQL has stored the responses, but the server does not know.
    Stored,
    /// PostgreSQL has announced the executions, but the server does not know.
    Announced,
    /// COMMIT was sent, but has not reached PostgreSQL.
    CommitSent,
    /// PostgreSQL has committed, but the server does not know.
    Committed,
    /// The server knows of the commit, but has sent no response.
    Acknowledged,
}

impl Step {
    pub const ALL: [Self; 13] = [
        Self::StatementSent,
        Self::StatementExecuted,
        Self::StatementCommitted,
        Self::Begin,
        Self::Begun,
        Self::Claimed,
        Self::Read,
        Self::Executed,
        Self::Stored,
        Self::Announced,
        Self::CommitSent,
        Self::Committed,
        Self::Acknowledged,
    ];
}

/// A fault of the connection on which an armed step passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Both ends are closed.
    Cut,
    /// Nothing is forwarded any more, but both ends stay connected.
    Freeze,
    /// The step is delayed once.
    Delay(Duration),
    /// The step is held until the test lets it continue.
    Hold,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Statement {
    Single,
    Begin,
    Claim,
    Read,
    Execute,
    Store,
    Announce,
    Commit,
    Other,
}

impl Statement {
    fn of(sql: &str) -> Self {
        let sql = sql.trim_start();
        let begins = |text: &str| sql.starts_with(text);
        match () {
            () if begins("BEGIN") => Self::Begin,
            () if begins("COMMIT") => Self::Commit,
            () if begins("INSERT INTO idempotency_keys") => Self::Claim,
            () if begins("INSERT INTO idempotency_responses") => Self::Store,
            () if begins("INSERT INTO announcements") => Self::Announce,
            () if begins("WITH claimed AS") || begins("WITH refund AS") => Self::Execute,
            () if begins("WITH keyed AS") || begins("WITH batch AS") => Self::Single,
            () if begins("SELECT wanted.place") => Self::Read,
            () => Self::Other,
        }
    }

    /// The step at which this statement is sent, but not delivered.
    fn sent(self) -> Option<Step> {
        match self {
            Self::Single => Some(Step::StatementSent),
            Self::Begin => Some(Step::Begin),
            Self::Commit => Some(Step::CommitSent),
            _ => None,
        }
    }

    /// The step at which all of this statement but its Sync is delivered.
    fn executed(self) -> Option<Step> {
        (self == Self::Single).then_some(Step::StatementExecuted)
    }

    /// Returns whether this statement commits.
    fn commits(self) -> bool {
        matches!(self, Self::Single | Self::Commit)
    }

    /// The step at which its result is sent, but not delivered.
    fn done(self) -> Option<Step> {
        match self {
            Self::Single => Some(Step::StatementCommitted),
            Self::Claim => Some(Step::Claimed),
            Self::Read => Some(Step::Read),
            Self::Execute => Some(Step::Executed),
            Self::Store => Some(Step::Stored),
            Self::Announce => Some(Step::Announced),
            Self::Commit => Some(Step::Committed),
            Self::Begin => Some(Step::Begun),
            Self::Other => None,
        }
    }
}

/// A committer's connection is known by its first statement.
const COMMITTERS_FIRST: &str = "SET lock_timeout";

#[derive(Default)]
struct Plan {
    armed: Mutex<Option<(Step, Fault)>>,
    reached: Notify,
    let_go: Notify,
    connections: AtomicUsize,
}

impl Plan {
    /// Takes the fault, if it is armed for this step.
    fn passes(&self, step: Step) -> Option<Fault> {
        let mut armed = self.armed.lock().unwrap();
        let (_, fault) = armed.take_if(|(awaited, _)| *awaited == step)?;
        drop(armed);
        self.reached.notify_one();
        Some(fault)
    }
}

/// A proxy between servers and PostgreSQL.
pub struct Proxy {
    pub address: SocketAddr,
    upstream: watch::Sender<SocketAddr>,
    plan: Arc<Plan>,
    cut: watch::Sender<()>,
    frozen: watch::Sender<()>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Starts a proxy in front of this PostgreSQL, on a port of its own.
    pub async fn start(options: &PgConnectOptions) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (upstream, upstream_now) = watch::channel(address_of(options).await);
        let (cut, cut_now) = watch::channel(());
        let (frozen, frozen_now) = watch::channel(());
        let plan = Arc::new(Plan::default());
        let accepting = tokio::spawn({
            let plan = Arc::clone(&plan);
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    let (upstream, plan) = (*upstream_now.borrow(), Arc::clone(&plan));
                    let (mut cut, mut frozen) = (cut_now.clone(), frozen_now.clone());
                    cut.mark_unchanged();
                    frozen.mark_unchanged();
                    tokio::spawn(async move {
                        tokio::select! {
                            _ = connection(client, upstream, plan, frozen) => {}
                            _ = cut.changed() => {}
                        }
                    });
                }
            }
        });
        Self { address, upstream, plan, cut, frozen, accepting }
    }

    /// The options to connect to a database through this proxy.
    pub fn through(&self, options: &PgConnectOptions) -> PgConnectOptions {
        options.clone().host("127.0.0.1").port(self.address.port()).ssl_mode(PgSslMode::Disable)
    }

    /// Arms a fault for the next time that this step passes, on any connection.
    pub fn arm(&self, step: Step, fault: Fault) {
        *self.plan.armed.lock().unwrap() = Some((step, fault));
    }

    /// Waits until the armed step has passed.
    #[track_caller]
    pub fn reached(&self) -> impl Future<Output = ()> {
        let plan = Arc::clone(&self.plan);
        let caller = std::panic::Location::caller();
        async move {
            let reached = timeout(PATIENCE, plan.reached.notified()).await;
            assert!(
                reached.is_ok(),
                "{caller}: the step was not reached: {:?}",
                plan.armed.lock().unwrap()
            );
        }
    }

    /// Lets a held step continue.
    pub fn let_go(&self) {
        self.plan.let_go.notify_one();
    }

    /// Cuts all connections.
    pub fn cut_all(&self) {
        self.cut.send_replace(());
    }

    /// Freezes all connections; new ones work.
    pub fn freeze_all(&self) {
        self.frozen.send_replace(());
    }

    /// Forwards new connections to another server.
    pub async fn redirect(&self, options: &PgConnectOptions) {
        self.upstream.send_replace(address_of(options).await);
    }

    /// The number of connections so far.
    pub fn connections(&self) -> usize {
        self.plan.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut_all();
    }
}

async fn address_of(options: &PgConnectOptions) -> SocketAddr {
    let host = options.get_host().to_owned();
    let port = options.get_port();
    tokio::net::lookup_host((host, port))
        .await
        .expect("faults need a PostgreSQL reached by TCP")
        .next()
        .unwrap()
}

/// The state that the two directions of a connection share.
#[derive(Default)]
struct Shared {
    /// True for a connection of a committer. Others pass no steps: the sequencer, for one, begins and commits all the
    /// time.
    commits: bool,
    /// Prepared statements by name.
    prepared: HashMap<String, Statement>,
    /// The statement that was bound since the last Sync.
    bound: Option<Statement>,
    /// The statements to which the next ReadyForQuery messages belong.
    awaited: VecDeque<Statement>,
}

impl Shared {
    fn statement(&self, sql: &str) -> Statement {
        if self.commits { Statement::of(sql) } else { Statement::Other }
    }
}

/// The end of a connection.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Closed,
    /// Both ends stay connected, but nothing is forwarded.
    Frozen,
}

async fn connection(
    mut client: TcpStream,
    upstream: SocketAddr,
    plan: Arc<Plan>,
    mut frozen: watch::Receiver<()>,
) -> io::Result<()> {
    plan.connections.fetch_add(1, Ordering::Relaxed);
    let mut server = TcpStream::connect(upstream).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut client_read, mut client_write) = client.split();
    let (mut server_read, mut server_write) = server.split();
    let shared = Mutex::new(Shared::default());
    let end = tokio::select! {
        end = requests(&mut client_read, &mut server_write, &shared, &plan) => end?,
        end = replies(&mut server_read, &mut client_write, &shared, &plan) => end?,
        _ = frozen.changed() => End::Frozen,
    };
    if end == End::Frozen {
        std::future::pending::<()>().await;
    }
    Ok(())
}

/// From the server under test to PostgreSQL.
async fn requests(
    client: &mut ReadHalf<'_>,
    server: &mut WriteHalf<'_>,
    shared: &Mutex<Shared>,
    plan: &Plan,
) -> io::Result<End> {
    let mut unread = BytesMut::new();
    // The first message has no type.
    let mut typed = false;
    loop {
        while let Some(frame) = frame(&mut unread, typed) {
            let sent = if typed { understand(&frame, &mut shared.lock().unwrap()) } else { None };
            typed = true;
            if let Some(end) = at(sent, plan).await {
                return Ok(end);
            }
            server.write_all(&frame).await?;
        }
        if client.read_buf(&mut unread).await? == 0 {
            return Ok(End::Closed);
        }
    }
}

/// Keeps track of a message, and returns its step.
fn understand(frame: &[u8], shared: &mut Shared) -> Option<Step> {
    let mut parts = frame.get(5..)?.split(|byte| *byte == 0);
    let mut text = || String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    match frame.first()? {
        b'Q' => {
            let sql = text();
            shared.commits |= sql.starts_with(COMMITTERS_FIRST);
            let statement = shared.statement(&sql);
            shared.awaited.push_back(statement);
            statement.sent()
        }
        b'P' => {
            let name = text();
            let statement = shared.statement(&text());
            shared.prepared.insert(name, statement);
            None
        }
        b'B' => {
            let _portal = text();
            shared.bound = shared.prepared.get(&text()).copied();
            shared.bound.and_then(Statement::sent)
        }
        b'S' => {
            let bound = shared.bound.take().unwrap_or(Statement::Other);
            shared.awaited.push_back(bound);
            bound.executed()
        }
        _ => None,
    }
}

/// From PostgreSQL to the server under test. The reply to a statement with a step is held until it is complete.
async fn replies(
    server: &mut ReadHalf<'_>,
    client: &mut WriteHalf<'_>,
    shared: &Mutex<Shared>,
    plan: &Plan,
) -> io::Result<End> {
    let mut unread = BytesMut::new();
    let mut held = BytesMut::new();
    loop {
        while let Some(frame) = frame(&mut unread, true) {
            held.extend_from_slice(&frame);
            let front = shared.lock().unwrap().awaited.front().copied();
            let done = front.and_then(Statement::done);
            let ready = frame.first() == Some(&b'Z');
            if ready {
                shared.lock().unwrap().awaited.pop_front();
                if let Some(end) = at(done, plan).await {
                    return Ok(end);
                }
            }
            if ready || done.is_none() {
                client.write_all(&held).await?;
                held.clear();
            }
            let acknowledged =
                (ready && front.is_some_and(Statement::commits)).then_some(Step::Acknowledged);
            if let Some(end) = at(acknowledged, plan).await {
                return Ok(end);
            }
        }
        if server.read_buf(&mut unread).await? == 0 {
            // The last messages, such as the reason why PostgreSQL ends the connection.
            client.write_all(&held).await?;
            return Ok(End::Closed);
        }
    }
}

/// The next complete message: a type, except in the first one, and a length that includes itself.
fn frame(unread: &mut BytesMut, typed: bool) -> Option<BytesMut> {
    let start = usize::from(typed);
    let length: [u8; 4] = unread.get(start..start + 4)?.try_into().ok()?;
    let whole = start + usize::try_from(u32::from_be_bytes(length)).ok()?;
    (unread.len() >= whole).then(|| unread.split_to(whole))
}

/// Executes the fault that is armed for a step. Returns whether the connection ends.
async fn at(step: Option<Step>, plan: &Plan) -> Option<End> {
    match plan.passes(step?)? {
        Fault::Cut => Some(End::Closed),
        Fault::Freeze => Some(End::Frozen),
        Fault::Delay(pause) => {
            tokio::time::sleep(pause).await;
            None
        }
        Fault::Hold => {
            plan.let_go.notified().await;
            None
        }
    }
}
