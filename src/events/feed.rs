//! The identity of the feed, by which a consumer notices that positions have begun anew.

use std::fmt;

use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use crate::db::timestamp::Timestamp;

/// SQLSTATE of a function that the role may not call.
const INSUFFICIENT_PRIVILEGE: &str = "42501";

/// An id that is the same as long as positions of the database go on without beginning anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeedId([u8; 16]);

/// The feed of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Feed {
    /// Its id.
    pub id: FeedId,
    /// Executions before this time may have no event; `None`: each has one. It is the current time while servers run
    /// with `EVENTS=off`.
    pub complete_since: Option<Timestamp>,
}

#[derive(FromRow)]
struct Row {
    feed_id: Uuid,
    complete_since: Option<Timestamp>,
    system_identifier: i64,
    timeline: String,
}

impl FeedId {
    /// The id of the feed with this id, on this timeline of a database cluster.
    fn of(feed_id: Uuid, system_identifier: i64, timeline: &str) -> Self {
        let digest: [u8; 32] = Sha256::new()
            .chain_update(feed_id)
            .chain_update(system_identifier.to_be_bytes())
            .chain_update(timeline)
            .finalize()
            .into();
        Self(digest.first_chunk().copied().unwrap_or_default())
    }

    /// The id in this text; `None` if it is not one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        // The only one of the ways to write a UUID that has this length.
        (text.len() == uuid::fmt::Simple::LENGTH)
            .then(|| Uuid::try_parse(text).ok().map(|id| Self(id.into_bytes())))?
    }
}

impl fmt::Display for FeedId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Uuid::from_bytes(self.0).simple().fmt(f)
    }
}

impl Serialize for FeedId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Reads the feed's identity.
///
/// A restored backup continues on a new timeline, and so does a standby that is promoted. A standby itself has no
/// current position in the write-ahead log, so the statement fails there.
///
/// # Errors
/// When the database fails, or is a standby.
pub async fn read(conn: &mut PgConnection) -> Result<Feed, sqlx::Error> {
    let found = sqlx::query_as(
        "SELECT feed_id, CASE WHEN announcing THEN complete_since ELSE now() END AS complete_since, system_identifier,
                left(pg_walfile_name(pg_current_wal_lsn()), 8) AS timeline
         FROM event_feed, pg_control_system()",
    )
    .fetch_one(&mut *conn)
    .await;
    let Row { feed_id, complete_since, system_identifier, timeline } = match found {
        Err(sqlx::Error::Database(error))
            if error.code().as_deref() == Some(INSUFFICIENT_PRIVILEGE) =>
        {
            read_without_rights(conn).await?
        }
        found => found?,
    };
    Ok(Feed { id: FeedId::of(feed_id, system_identifier, &timeline), complete_since })
}

/// For a role that may not call the two functions: restores are then told by `payonce events renew` alone.
async fn read_without_rights(conn: &mut PgConnection) -> Result<Row, sqlx::Error> {
    sqlx::query_as(
        "SELECT feed_id, CASE WHEN announcing THEN complete_since ELSE now() END AS complete_since,
                0::bigint AS system_identifier, '' AS timeline
         FROM event_feed WHERE NOT pg_is_in_recovery()",
    )
    .fetch_one(conn)
    .await
}
