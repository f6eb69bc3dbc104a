//! Looking up used keys: before the claim if most keys of a batch are likely to be used, otherwise after it.

use sqlx::PgConnection;

use super::{batch::Terms, failed::Failed, server_check::Server, steps::Steps};
use crate::{
    Record,
    observer::{Observer, Step},
    queue::Job,
    sql,
};

/// The time of a look-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// Before the claim. An unreadable record is skipped: its request alone fails, in the look-up after the claim.
    First,
    /// After the claim, of the keys that were not new.
    Last,
}

/// The records of used keys; `None` for a key that is new, or in flight elsewhere.
pub(crate) async fn look_up(
    conn: &mut PgConnection,
    batch: &[Job],
    look: Look,
    terms: Terms,
    server: Server,
    observer: &dyn Observer,
) -> Result<Vec<Option<Record>>, Failed> {
    let steps = Steps::new(observer, terms.timeouts.batch);
    steps.run(Step::LookUp, look_up_used(conn, batch, look, terms.key_ttl, server)).await
}

async fn look_up_used(
    conn: &mut PgConnection,
    batch: &[Job],
    look: Look,
    key_ttl: Option<f64>,
    server: Server,
) -> Result<Vec<Option<Record>>, sqlx::Error> {
    let scopes: Vec<_> = batch.iter().map(|job| &job.leader.scope).collect();
    let found = sql::used(conn, &scopes, key_ttl).await?.into_iter();
    let found: Vec<_> = match look {
        Look::First => found.flatten().collect(),
        Look::Last => found.collect::<Result<_, _>>()?,
    };
    // The record may have been committed by a connection that was lost, or a server that was restarted, before a
    // standby had it. Nobody may hear of it until one has.
    if server.synchronous_standby && !found.is_empty() {
        sql::write_to_log(conn).await?;
    }
    let mut records: Vec<Option<Record>> = batch.iter().map(|_| None).collect();
    for (place, record) in found {
        if let Some(place) = records.get_mut(place) {
            *place = Some(record);
        }
    }
    Ok(records)
}
