//! Leases: one server at a time delivers to an endpoint.
//!
//! Each taking of a lease increments its epoch, and each write names the epoch under which it was decided. A server that
//! was frozen therefore changes nothing afterwards.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use sqlx::{FromRow, PgConnection, Row, postgres::PgRow};
use uuid::Uuid;

use super::store::duration;
use crate::{
    ids::{AccountId, EndpointId},
    webhooks::{endpoint::Endpoint, secrets::KeyId, store::endpoint_columns},
};

/// Duration of a lease. After a crash, the endpoint waits so long for another server.
pub(super) const LASTING: Duration = Duration::from_secs(25);

/// Pause between two renewals.
pub(super) const RENEWAL: Duration = Duration::from_secs(2);

/// A server that gave up an endpoint because another asked for it does not take it back for this long.
const COURTESY: Duration = Duration::from_secs(5);

/// A server, for as long as its process lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::Type)]
#[sqlx(transparent)]
pub(super) struct Holder(Uuid);

impl Holder {
    pub(super) fn new() -> Self {
        Self(Uuid::new_v4())
    }
}

/// An endpoint under a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct LeaseId {
    pub(super) account_id: AccountId,
    pub(super) endpoint_id: EndpointId,
    pub(super) epoch: i64,
}

/// The end of a lease by this machine's monotonic clock.
#[derive(Debug, Clone)]
pub(super) struct LeaseClock(Arc<Mutex<Instant>>);

impl LeaseClock {
    /// The clock of a lease whose statement was sent at this time. PostgreSQL counts from a later one.
    pub(super) fn since(sent: Instant) -> Self {
        Self(Arc::new(Mutex::new(sent + LASTING)))
    }

    pub(super) fn renew(&self, sent: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = sent + LASTING;
    }

    /// Returns whether a call of at most this duration ends before the lease does.
    pub(super) fn covers(&self, call: Duration, now: Instant) -> bool {
        now + call < *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An endpoint as the statement that leased it, or renewed its lease, found it.
#[derive(Debug)]
pub(super) struct Leased {
    pub(super) endpoint: Endpoint,
    /// Since when no call succeeds, as a duration.
    pub(super) failing_for: Option<Duration>,
    /// The rest of the breaker's pause.
    pub(super) resumes_in: Option<Duration>,
    /// Another server asks for the endpoint.
    pub(super) wanted: bool,
}

impl Leased {
    pub(super) fn id(&self) -> LeaseId {
        let Endpoint { account_id, endpoint_id, lease_epoch: epoch, .. } = self.endpoint;
        LeaseId { account_id, endpoint_id, epoch }
    }
}

impl FromRow<'_, PgRow> for Leased {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            endpoint: Endpoint::from_row(row)?,
            failing_for: row.try_get::<Option<f64>, _>("failing_for")?.map(duration),
            resumes_in: row.try_get::<Option<f64>, _>("resumes_in")?.map(duration),
            wanted: row.try_get("lease_wanted")?,
        })
    }
}

macro_rules! leased_columns {
    () => {
        concat!(
            endpoint_columns!(),
            ", lease_wanted, extract(epoch FROM now() - failing_since)::float8 AS failing_for,
             extract(epoch FROM resume_at - now())::float8 AS resumes_in"
        )
    };
}

/// Takes the leases of up to `limit` endpoints that no server has, and that have something to deliver. Endpoints whose
/// secret is under another key, and those of `except`, are left to servers that can decrypt it.
pub(super) async fn take(
    conn: &mut PgConnection,
    holder: Holder,
    keys: &[KeyId],
    except: &[EndpointId],
    limit: i64,
) -> Result<Vec<Leased>, sqlx::Error> {
    let keys: Vec<&[u8]> = keys.iter().map(KeyId::as_bytes).collect();
    sqlx::query_as(concat!(
        "UPDATE webhook_endpoints SET lease_epoch = lease_epoch + 1, lease_until = now() + make_interval(secs => $1),
             lease_holder = $2, lease_wanted = false
         WHERE (account_id, endpoint_id) IN (
             SELECT account_id, endpoint_id FROM webhook_endpoints AS e
             WHERE enabled AND lease_until < now() AND coalesce(resume_at <= now(), true)
               AND key_id = ANY($3) AND endpoint_id <> ALL($4)
               AND NOT (lease_wanted AND lease_holder = $2 AND lease_until > now() - make_interval(secs => $5))
               AND (replay_from IS NOT NULL
                    OR EXISTS (SELECT FROM webhook_failures AS f
                               WHERE f.account_id = e.account_id AND f.endpoint_id = e.endpoint_id AND next_at <= now())
                    OR coalesce((SELECT position FROM webhook_progress AS p
                                 WHERE p.account_id = e.account_id AND p.endpoint_id = e.endpoint_id AND replay = 0
                                 ORDER BY number DESC LIMIT 1), after_position)
                       < (SELECT first_position + cardinality(subjects) - 1 FROM event_runs AS r
                          WHERE r.account_id = e.account_id ORDER BY first_position DESC LIMIT 1))
             ORDER BY lease_until LIMIT $6 FOR NO KEY UPDATE SKIP LOCKED
         )
         RETURNING ",
        leased_columns!()
    ))
    .bind(LASTING.as_secs_f64())
    .bind(holder)
    .bind(keys)
    .bind(except)
    .bind(COURTESY.as_secs_f64())
    .bind(limit)
    .fetch_all(conn)
    .await
}

/// Prolongs leases, and reads the endpoints as they are now. Those that are missing were lost, disabled or deleted.
pub(super) async fn renew(
    conn: &mut PgConnection,
    leases: &[LeaseId],
) -> Result<Vec<Leased>, sqlx::Error> {
    let (accounts, endpoints, epochs) = columns(leases);
    sqlx::query_as(concat!(
        "UPDATE webhook_endpoints SET lease_until = now() + make_interval(secs => $4)
         FROM unnest($1::uuid[], $2::uuid[], $3::bigint[]) AS mine (a, e, epoch)
         WHERE account_id = a AND endpoint_id = e AND lease_epoch = epoch AND enabled
         RETURNING ",
        leased_columns!()
    ))
    .bind(accounts)
    .bind(endpoints)
    .bind(epochs)
    .bind(LASTING.as_secs_f64())
    .fetch_all(conn)
    .await
}

/// Gives leases up, so that another server can take them at once.
pub(super) async fn release(
    conn: &mut PgConnection,
    leases: &[LeaseId],
) -> Result<(), sqlx::Error> {
    let (accounts, endpoints, epochs) = columns(leases);
    sqlx::query(
        // Not before the end of the courtesy if another server asked for it.
        "UPDATE webhook_endpoints SET lease_until = CASE WHEN lease_wanted THEN now() ELSE '-infinity' END
         FROM unnest($1::uuid[], $2::uuid[], $3::bigint[]) AS mine (a, e, epoch)
         WHERE account_id = a AND endpoint_id = e AND lease_epoch = epoch",
    )
    .bind(accounts)
    .bind(endpoints)
    .bind(epochs)
    .execute(conn)
    .await
    .map(drop)
}

/// Asks the server with the most endpoints for half of those that it has more than this one.
pub(super) async fn ask(
    conn: &mut PgConnection,
    holder: Holder,
    keys: &[KeyId],
    limit: i64,
) -> Result<u64, sqlx::Error> {
    let keys: Vec<&[u8]> = keys.iter().map(KeyId::as_bytes).collect();
    let asked = sqlx::query(
        "WITH leases AS (
             SELECT lease_holder, count(*) AS held, count(*) FILTER (WHERE lease_wanted) AS wanted
             FROM webhook_endpoints WHERE lease_until > now() GROUP BY lease_holder
         ), busiest AS (
             SELECT lease_holder, held, wanted FROM leases WHERE lease_holder <> $1 ORDER BY held DESC LIMIT 1
         )
         UPDATE webhook_endpoints SET lease_wanted = true WHERE (account_id, endpoint_id) IN (
             SELECT account_id, endpoint_id FROM webhook_endpoints JOIN busiest USING (lease_holder)
             WHERE lease_until > now() AND NOT lease_wanted AND key_id = ANY($2)
             LIMIT least($3, greatest(0, (SELECT (held - coalesce((SELECT held FROM leases WHERE lease_holder = $1), 0)) / 2
                                                 - wanted FROM busiest)))
             FOR NO KEY UPDATE OF webhook_endpoints SKIP LOCKED
         )",
    )
    .bind(holder)
    .bind(keys)
    .bind(limit)
    .execute(conn)
    .await?;
    Ok(asked.rows_affected())
}

fn columns(leases: &[LeaseId]) -> (Vec<AccountId>, Vec<EndpointId>, Vec<i64>) {
    let accounts = leases.iter().map(|lease| lease.account_id).collect();
    let endpoints = leases.iter().map(|lease| lease.endpoint_id).collect();
    (accounts, endpoints, leases.iter().map(|lease| lease.epoch).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_begins_only_with_more_than_its_time_out_left_on_the_lease() {
        let sent = Instant::now();
        let clock = LeaseClock::since(sent);
        let call = Duration::from_secs(15);
        assert!(clock.covers(call, sent + Duration::from_millis(9_999)));
        assert!(!clock.covers(call, sent + Duration::from_secs(10)));
        clock.renew(sent + RENEWAL);
        assert!(clock.covers(call, sent + Duration::from_secs(10)));
    }
}
