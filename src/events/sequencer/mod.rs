//! The sequencer gives each announced event its position in the feed of its account.
//!
//! Any number of servers run one; an advisory lock lets one of them work at a time. It takes the announcements that are
//! visible, in the order of their ids, and moves them into runs in one transaction.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, postgres::PgConnectOptions};

use self::runs::Announcement;
use crate::{db, ids::AccountId};

mod runs;
mod sql;
pub mod task;

/// Announcements that a pass takes at most.
const ANNOUNCEMENTS_OF_A_PASS: i64 = 1000;

/// Events after which a pass takes no further announcement.
const EVENTS_OF_A_PASS: i64 = 20_000;

/// After this time PostgreSQL ends the transaction of a server that hangs, and another server goes on.
const IDLE_IN_TRANSACTION_TIMEOUT: Duration = Duration::from_millis(200);

/// The last snapshot in which nothing was left. A transaction that someone else holds open keeps deleted announcements
/// in the index; a pass that looks only for what this snapshot had not seen does not read them again.
///
/// It outlasts the lock: others who sequence meanwhile only delete. It must be dropped with the connection, because the
/// next one may lead to a server with other transactions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen(String);

impl Default for Seen {
    /// The snapshot before all transactions.
    fn default() -> Self {
        Self("1:1:".to_owned())
    }
}

/// The result of one pass.
#[derive(Debug, Clone, PartialEq)]
pub enum Sequenced {
    /// Another session is sequencing.
    Elsewhere,
    /// This session has sequenced what it saw.
    Here(Pass),
}

/// A pass that was committed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pass {
    /// The accounts that have new events.
    pub accounts: Vec<AccountId>,
    /// The number of new events.
    pub events: usize,
    /// The age of each announcement: the time since its transaction began.
    pub ages: Vec<Duration>,
    /// True if a limit left announcements for the next pass.
    pub more: bool,
}

/// Opens a connection to sequence on.
///
/// # Errors
/// When the server is unreachable or does not answer.
pub async fn connect(options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    let mut conn = db::connect(&db::named(options.clone(), "payonce sequencer")).await?;
    // Plans are kept: for each new one PostgreSQL looks for the last entry of the index, past all deleted entries. They
    // were made when the tables may have been small, so they must not read whole tables.
    let settings = format!(
        "SET idle_in_transaction_session_timeout = {}; SET statement_timeout = {}; SET jit = off; \
         SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off",
        IDLE_IN_TRANSACTION_TIMEOUT.as_millis(),
        db::STATEMENT_LIMIT.as_millis(),
    );
    conn.execute(AssertSqlSafe(settings)).await?;
    Ok(conn)
}

/// Gives positions to the announcements that are visible, at most 1000 of them, unless another session is doing so.
///
/// Each step is a statement, because each must see what was committed before the lock was taken: a snapshot older than
/// the lock gives a position twice.
///
/// # Errors
/// When the database fails, or when it inserts or deletes less than it was told to. Drop `seen` with the connection.
#[expect(clippy::disallowed_methods, reason = "no request is executed in this transaction")]
pub async fn sequence_once(
    conn: &mut PgConnection,
    seen: &mut Seen,
) -> Result<Sequenced, sqlx::Error> {
    let mut transaction = conn.begin_with("BEGIN ISOLATION LEVEL READ COMMITTED").await?;
    if !sql::try_lock(&mut transaction).await? {
        transaction.rollback().await?;
        return Ok(Sequenced::Elsewhere);
    }
    let looked =
        sql::look(&mut transaction, seen, ANNOUNCEMENTS_OF_A_PASS, EVENTS_OF_A_PASS).await?;
    let pass = give_positions(&mut transaction, &looked).await?;
    transaction.commit().await?;
    if !looked.more {
        *seen = looked.snapshot;
    }
    Ok(Sequenced::Here(pass))
}

/// Counts the announced events that have no position yet.
///
/// # Errors
/// When the database fails.
pub async fn waiting(conn: &mut PgConnection) -> Result<i64, sqlx::Error> {
    sql::waiting(conn).await
}

/// Moves what was found from announcements to runs.
async fn give_positions(
    conn: &mut PgConnection,
    looked: &sql::Looked,
) -> Result<Pass, sqlx::Error> {
    let announcements = looked.announcements.as_slice();
    if announcements.is_empty() {
        return Ok(Pass::default());
    }
    let accounts = runs::accounts(announcements);
    let mut last = sql::last_positions(conn, &accounts).await?;
    sql::insert(conn, &runs::runs(announcements, &mut last)?).await?;
    sql::delete(conn, announcements).await?;
    Ok(Pass {
        accounts,
        events: announcements.iter().map(|one| one.execution_ids.len()).sum(),
        ages: announcements.iter().map(Announcement::age).collect(),
        more: looked.more,
    })
}
