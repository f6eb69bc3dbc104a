//! The statements of delivery, apart from leases.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use sqlx::{Executor, FromRow, PgConnection};

use super::{
    changes::Row,
    cursor::Cursor,
    facts::Facts,
    failures::Failure,
    lease::LeaseId,
    write::{Note, Write},
};
use crate::{
    db::timestamp::Timestamp,
    events::EventType,
    ids::{AccountId, EndpointId, ExecutionId, PaymentId},
};

/// Each so many rows of progress, the older ones are deleted.
const KEPT_ROWS: i64 = 64;

/// Seconds of PostgreSQL as a duration; 0 if they are negative.
pub(super) fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)
}

/// Reads the stored cursor: of first deliveries (0), or of a replay.
pub(super) async fn cursor(
    conn: &mut PgConnection,
    lease: LeaseId,
    replay: i64,
) -> Result<Option<Cursor>, sqlx::Error> {
    let row: Option<(i64, i64)> = sqlx::query_as(
        "SELECT position, done FROM webhook_progress
         WHERE account_id = $1 AND endpoint_id = $2 AND replay = $3 ORDER BY number DESC LIMIT 1",
    )
    .bind(lease.account_id)
    .bind(lease.endpoint_id)
    .bind(replay)
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|(position, done)| Cursor::of_stored(position, done)))
}

#[derive(FromRow)]
struct FailureRow {
    position: i64,
    r#type: i16,
    version: i16,
    subject: ExecutionId,
    payment_id: PaymentId,
    at: Timestamp,
    attempts: i16,
    due_in: f64,
}

impl FailureRow {
    /// `None` for an event that only a newer version of the program knows.
    fn failure(self, now: Instant) -> Option<Failure> {
        let Self { position, version, subject, payment_id, at, .. } = self;
        let event_type = EventType::from_code(self.r#type)?;
        Some(Failure {
            facts: Facts { position, event_type, version, subject, payment_id, at },
            attempts: u16::try_from(self.attempts).unwrap_or(0),
            due: now + duration(self.due_in),
        })
    }
}

/// Reads the open failures of an endpoint.
pub(super) async fn failures(
    conn: &mut PgConnection,
    lease: LeaseId,
    limit: usize,
) -> Result<Vec<Failure>, sqlx::Error> {
    let rows: Vec<FailureRow> = sqlx::query_as(
        "SELECT position, type, version, subject, payment_id, at, attempts,
                extract(epoch FROM next_at - now())::float8 AS due_in
         FROM webhook_failures WHERE account_id = $1 AND endpoint_id = $2 AND next_at IS NOT NULL
         ORDER BY position LIMIT $3",
    )
    .bind(lease.account_id)
    .bind(lease.endpoint_id)
    .bind(i64::try_from(limit).unwrap_or(i64::MAX))
    .fetch_all(conn)
    .await?;
    let now = Instant::now();
    Ok(rows.into_iter().filter_map(|row| row.failure(now)).collect())
}

/// Stores writes of several endpoints in one transaction. Those whose lease another server has taken change nothing;
/// the result contains the leases that still hold. After an error the connection must not be used again.
pub(super) async fn store(
    conn: &mut PgConnection,
    writes: &[Write],
) -> Result<BTreeSet<LeaseId>, sqlx::Error> {
    conn.execute("BEGIN ISOLATION LEVEL READ COMMITTED").await?;
    let held = lock(conn, writes).await?;
    let valid: Vec<&Write> = writes.iter().filter(|write| held.contains(&write.lease)).collect();
    progress(conn, &valid).await?;
    put_failures(conn, &valid).await?;
    delete_failures(conn, &valid).await?;
    for write in valid {
        if let Some(note) = &write.note {
            put_note(conn, write.lease, note).await?;
        }
        note_rarely(conn, write).await?;
    }
    conn.execute("COMMIT").await?;
    Ok(held)
}

/// Locks the endpoints whose lease still holds. Another server takes a lease only after this transaction.
async fn lock(conn: &mut PgConnection, writes: &[Write]) -> Result<BTreeSet<LeaseId>, sqlx::Error> {
    let column = writes.iter().map(|write| write.lease);
    let rows: Vec<(AccountId, EndpointId, i64)> = sqlx::query_as(
        "SELECT account_id, endpoint_id, lease_epoch FROM webhook_endpoints
         JOIN unnest($1::uuid[], $2::uuid[], $3::bigint[]) AS mine (a, e, epoch)
           ON account_id = a AND endpoint_id = e AND lease_epoch = epoch
         ORDER BY account_id, endpoint_id FOR SHARE OF webhook_endpoints",
    )
    .bind(column.clone().map(|lease| lease.account_id).collect::<Vec<_>>())
    .bind(column.clone().map(|lease| lease.endpoint_id).collect::<Vec<_>>())
    .bind(column.map(|lease| lease.epoch).collect::<Vec<_>>())
    .fetch_all(conn)
    .await?;
    let lease = |(account_id, endpoint_id, epoch)| LeaseId { account_id, endpoint_id, epoch };
    Ok(rows.into_iter().map(lease).collect())
}

async fn progress(conn: &mut PgConnection, writes: &[&Write]) -> Result<(), sqlx::Error> {
    let rows: Vec<(LeaseId, i64, Cursor)> = writes
        .iter()
        .flat_map(|write| {
            let first = write.changes.first.map(|cursor| (write.lease, 0, cursor));
            let replay = write.changes.replay.map(|(number, cursor)| (write.lease, number, cursor));
            first.into_iter().chain(replay)
        })
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    let numbers: Vec<(AccountId, EndpointId, i64, i64)> = sqlx::query_as(
        "INSERT INTO webhook_progress (account_id, endpoint_id, replay, number, position, done)
         SELECT a, e, r, 1 + coalesce(
                    (SELECT number FROM webhook_progress WHERE account_id = a AND endpoint_id = e AND replay = r
                     ORDER BY number DESC LIMIT 1), 0),
                new_position, new_done
         FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::bigint[], $5::bigint[])
              AS new (a, e, r, new_position, new_done)
         RETURNING account_id, endpoint_id, replay, number",
    )
    .bind(rows.iter().map(|(lease, ..)| lease.account_id).collect::<Vec<_>>())
    .bind(rows.iter().map(|(lease, ..)| lease.endpoint_id).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, replay, _)| *replay).collect::<Vec<_>>())
    .bind(rows.iter().map(|(.., cursor)| cursor.position).collect::<Vec<_>>())
    .bind(rows.iter().map(|(.., cursor)| cursor.stored_bits()).collect::<Vec<_>>())
    .fetch_all(&mut *conn)
    .await?;
    for (account_id, endpoint_id, replay, number) in numbers {
        if number % KEPT_ROWS == 0 {
            sqlx::query(
                "DELETE FROM webhook_progress
                 WHERE account_id = $1 AND endpoint_id = $2 AND replay = $3 AND number < $4",
            )
            .bind(account_id)
            .bind(endpoint_id)
            .bind(replay)
            .bind(number)
            .execute(&mut *conn)
            .await?;
        }
    }
    Ok(())
}

async fn put_failures(conn: &mut PgConnection, writes: &[&Write]) -> Result<(), sqlx::Error> {
    let rows: Vec<(LeaseId, &Row)> = writes
        .iter()
        .flat_map(|write| write.changes.rows.values().flatten().map(|row| (write.lease, row)))
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    let now = Instant::now();
    let due_in = |row: &Row| row.due.map(|due| due.saturating_duration_since(now).as_secs_f64());
    sqlx::query(
        "INSERT INTO webhook_failures
             (account_id, endpoint_id, position, type, version, subject, payment_id, at, attempts, next_at, last_status,
              last_error)
         SELECT a, e, p, t, v, s, payment, happened, n, now() + make_interval(secs => due_in), status, error
         FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::smallint[], $5::smallint[], $6::uuid[], $7::uuid[],
                     $8::timestamptz[], $9::smallint[], $10::float8[], $11::smallint[], $12::text[])
              AS new (a, e, p, t, v, s, payment, happened, n, due_in, status, error)
         ON CONFLICT (account_id, endpoint_id, position) DO UPDATE
         SET attempts = excluded.attempts, next_at = excluded.next_at, last_status = excluded.last_status,
             last_error = excluded.last_error",
    )
    .bind(rows.iter().map(|(lease, _)| lease.account_id).collect::<Vec<_>>())
    .bind(rows.iter().map(|(lease, _)| lease.endpoint_id).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, row)| row.facts.position).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, row)| row.facts.event_type.code()).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, row)| row.facts.version).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, row)| row.facts.subject).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, row)| row.facts.payment_id).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, row)| row.facts.at.0).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, row)| i16::try_from(row.attempts).unwrap_or(i16::MAX)).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, row)| due_in(row)).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, row)| row.status.and_then(|it| i16::try_from(it).ok())).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, row)| row.error.clone()).collect::<Vec<_>>())
    .execute(conn)
    .await
    .map(drop)
}

async fn delete_failures(conn: &mut PgConnection, writes: &[&Write]) -> Result<(), sqlx::Error> {
    let rows: Vec<(LeaseId, i64)> = writes
        .iter()
        .flat_map(|write| {
            let deleted = write.changes.rows.iter().filter(|(_, row)| row.is_none());
            deleted.map(|(position, _)| (write.lease, *position))
        })
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "DELETE FROM webhook_failures USING unnest($1::uuid[], $2::uuid[], $3::bigint[]) AS delivered (a, e, p)
         WHERE account_id = a AND endpoint_id = e AND position = p",
    )
    .bind(rows.iter().map(|(lease, _)| lease.account_id).collect::<Vec<_>>())
    .bind(rows.iter().map(|(lease, _)| lease.endpoint_id).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, position)| *position).collect::<Vec<_>>())
    .execute(conn)
    .await
    .map(drop)
}

/// Stores what the last calls found out about the endpoint.
async fn put_note(conn: &mut PgConnection, lease: LeaseId, note: &Note) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE webhook_endpoints SET
             last_status = $3, last_error = $4,
             last_success_at = CASE WHEN $5 THEN now() ELSE last_success_at END,
             failing_since = CASE WHEN $6 IS NOT NULL THEN coalesce(failing_since, now() - make_interval(secs => $6)) END,
             resume_at = now() + make_interval(secs => $7)
         WHERE account_id = $1 AND endpoint_id = $2",
    )
    .bind(lease.account_id)
    .bind(lease.endpoint_id)
    .bind(note.status.and_then(|status| i16::try_from(status).ok()))
    .bind(note.error.as_deref())
    .bind(note.succeeded)
    .bind(note.failing_for.map(|failing| failing.as_secs_f64()))
    .bind(note.resumes_in.map(|pause| pause.as_secs_f64()))
    .execute(conn)
    .await
    .map(drop)
}

/// Stores what seldom happens: the end of a replay, lost events, disabling.
async fn note_rarely(conn: &mut PgConnection, write: &Write) -> Result<(), sqlx::Error> {
    let LeaseId { account_id, endpoint_id, .. } = write.lease;
    if let Some(number) = write.ended_replay {
        sqlx::query(
            "UPDATE webhook_endpoints SET replay_from = NULL, replay_to = NULL
             WHERE account_id = $1 AND endpoint_id = $2 AND replay_number = $3",
        )
        .bind(account_id)
        .bind(endpoint_id)
        .bind(number)
        .execute(&mut *conn)
        .await?;
        sqlx::query(
            "DELETE FROM webhook_progress
             WHERE account_id = $1 AND endpoint_id = $2 AND replay BETWEEN 1 AND $3",
        )
        .bind(account_id)
        .bind(endpoint_id)
        .bind(number)
        .execute(&mut *conn)
        .await?;
    }
    if let Some(lost) = write.lost {
        sqlx::query(
            "UPDATE webhook_endpoints SET lost_from = least(lost_from, $3), lost_to = greatest(lost_to, $4)
             WHERE account_id = $1 AND endpoint_id = $2",
        )
        .bind(account_id)
        .bind(endpoint_id)
        .bind(lost.from)
        .bind(lost.to)
        .execute(&mut *conn)
        .await?;
    }
    if let Some(reason) = write.disables {
        sqlx::query(
            "UPDATE webhook_endpoints SET enabled = false, disabled_reason = $3, lease_epoch = lease_epoch + 1,
                 lease_until = '-infinity'
             WHERE account_id = $1 AND endpoint_id = $2",
        )
        .bind(account_id)
        .bind(endpoint_id)
        .bind(reason.name())
        .execute(conn)
        .await?;
    }
    Ok(())
}

/// Reads the last positions of accounts with events.
pub(super) async fn last_positions(
    conn: &mut PgConnection,
    accounts: &[AccountId],
) -> Result<Vec<(AccountId, i64)>, sqlx::Error> {
    sqlx::query_as(
        "SELECT a, last FROM unnest($1::uuid[]) AS accounts (a) CROSS JOIN LATERAL (
             SELECT first_position + cardinality(subjects) - 1 AS last FROM event_runs WHERE account_id = a
             ORDER BY first_position DESC LIMIT 1
         ) AS newest",
    )
    .bind(accounts)
    .fetch_all(conn)
    .await
}

/// Deletes parked events whose runs have expired: no replay can reach them any more.
pub(super) async fn delete_expired(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query(
        "DELETE FROM webhook_failures AS failure WHERE next_at IS NULL AND position < (
             SELECT first_position FROM event_runs AS run WHERE run.account_id = failure.account_id
             ORDER BY first_position LIMIT 1
         )",
    )
    .execute(conn)
    .await
    .map(drop)
}
