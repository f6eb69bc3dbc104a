//! Refuses connection poolers in transaction mode, where payonce's settings would reach other clients. Session mode works.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, PgConnection, Row, postgres::PgConnectOptions, raw_sql};
use thiserror::Error;
use tokio::time::timeout;
use uuid::Uuid;

use super::{CONNECT_LIMIT, at, named, silent};

/// Rounds of the check. An idle pooler reuses its session in the first; a busy one may need more.
const ROUNDS: usize = 3;

/// Time for the second connection. A pooler in session mode may have no session left for it.
const SECOND_LIMIT: Duration = Duration::from_secs(1);

/// A pooler gives one session to several connections.
#[derive(Debug, Error)]
#[error(
    "DATABASE_URL leads to a connection pooler that shares sessions by transaction or by statement, and payonce needs \
     sessions of its own. Set the pooler to session mode (PgBouncer: pool_mode = session), or connect to PostgreSQL \
     itself"
)]
pub struct SharedSessions;

/// Checks that each connection has its own session: it reads back what it has set, and no other connection does. Call
/// this before anything is set that must not reach other clients.
///
/// # Errors
/// [`SharedSessions`], as an error of configuration; or when there is no connection.
pub async fn refuse_shared_sessions(options: &PgConnectOptions) -> Result<(), sqlx::Error> {
    let shared = timeout(CONNECT_LIMIT, shares_sessions(options)).await;
    if shared.unwrap_or_else(|_| Err(silent())).map_err(|error| at(options, error))? {
        return Err(sqlx::Error::Configuration(SharedSessions.into()));
    }
    Ok(())
}

async fn shares_sessions(options: &PgConnectOptions) -> Result<bool, sqlx::Error> {
    let options = named(options.clone(), "payonce");
    let mut first = PgConnection::connect_with(&options).await?;
    // Without a second connection, the first one alone can still notice a change of session.
    let second = timeout(SECOND_LIMIT, PgConnection::connect_with(&options)).await;
    let mut second = second.ok().and_then(Result::ok);
    let mut shared = false;
    for _ in 0..ROUNDS {
        let mark = Uuid::new_v4().to_string();
        let set = format!("SET payonce.session = '{mark}'");
        raw_sql(AssertSqlSafe(set)).execute(&mut first).await?;
        if let Some(second) = &mut second
            && let Ok(read) = timeout(SECOND_LIMIT, read_mark(second)).await
        {
            shared |= read? == mark;
        }
        shared |= read_mark(&mut first).await? != mark;
    }
    first.close().await?;
    if let Some(second) = second {
        second.close().await?;
    }
    Ok(shared)
}

/// The mark of the session. A simple query, because prepared statements belong to a session, too.
async fn read_mark(conn: &mut PgConnection) -> Result<String, sqlx::Error> {
    let read = raw_sql("SELECT coalesce(current_setting('payonce.session', true), '')");
    read.fetch_one(conn).await?.try_get(0)
}
