//! Endpoints as their owners see them: with the state of delivery, and never with a secret.

use serde::Serialize;
use sqlx::{FromRow, PgConnection, Row, postgres::PgRow};

use super::endpoint::{DisabledReason, EventTypes, MAX_ENDPOINTS, Range};
use crate::{
    db::timestamp::Timestamp,
    ids::{AccountId, EndpointId},
};

/// An endpoint and how its delivery goes.
#[derive(Debug, Clone, Serialize)]
pub struct ShownEndpoint {
    /// Its id.
    pub endpoint_id: EndpointId,
    /// Its URL.
    pub url: String,
    /// The types of events that it receives; all of them if it is null.
    pub event_types: EventTypes,
    /// Its description.
    pub description: String,
    /// True if events are sent.
    pub enabled: bool,
    /// The reason if payonce disabled it.
    pub disabled_reason: Option<DisabledReason>,
    /// When it was created.
    pub created_at: Timestamp,
    /// The events that were not sent yet.
    pub behind: Behind,
    /// Events whose delivery failed.
    pub failures: Failures,
    /// Since when no call succeeds.
    pub failing_since: Option<Timestamp>,
    /// When a call succeeded last.
    pub last_success_at: Option<Timestamp>,
    /// The status of the last response.
    pub last_status: Option<i16>,
    /// The error of the last call.
    pub last_error: Option<String>,
    /// Positions of events that expired before they were sent.
    pub lost: Option<Range>,
    /// Positions of events that are sent once more.
    pub replay: Option<Range>,
    /// Until when the previous secret signs as well.
    pub previous_secret_until: Option<Timestamp>,
}

/// The distance to the newest event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Behind {
    /// Events, of all types.
    pub events: i64,
    /// The age of the oldest of them.
    pub seconds: i64,
}

/// The number of events whose delivery failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Failures {
    /// They are attempted again.
    pub open: i64,
    /// They are not: only a replay sends them.
    pub parked: i64,
}

/// The endpoints of an account.
#[derive(Debug, Serialize)]
pub struct Endpoints {
    /// Oldest first.
    pub webhook_endpoints: Vec<ShownEndpoint>,
}

impl FromRow<'_, PgRow> for ShownEndpoint {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let reason: Option<&str> = row.try_get("disabled_reason")?;
        Ok(Self {
            endpoint_id: row.try_get("endpoint_id")?,
            url: row.try_get("url")?,
            event_types: row.try_get("event_types")?,
            description: row.try_get("description")?,
            enabled: row.try_get("enabled")?,
            disabled_reason: reason.and_then(DisabledReason::parse),
            created_at: row.try_get("created_at")?,
            behind: Behind {
                events: row.try_get("events_behind")?,
                seconds: row.try_get("seconds_behind")?,
            },
            failures: Failures { open: row.try_get("open")?, parked: row.try_get("parked")? },
            failing_since: row.try_get("failing_since")?,
            last_success_at: row.try_get("last_success_at")?,
            last_status: row.try_get("last_status")?,
            last_error: row.try_get("last_error")?,
            lost: Range::of_row(row, "lost_from", "lost_to")?,
            replay: Range::of_row(row, "replay_from", "replay_to")?,
            previous_secret_until: row.try_get("previous_secret_until")?,
        })
    }
}

/// Reads endpoints `e`. `reached` is the position up to which all events are done.
macro_rules! select_endpoints {
    ($which:literal) => {
        concat!(
            "SELECT e.endpoint_id, e.url, e.event_types, e.description, e.enabled, e.disabled_reason, e.created_at,
                    e.failing_since, e.last_success_at, e.last_status, e.last_error, e.lost_from, e.lost_to,
                    e.replay_from, e.replay_to,
                    CASE WHEN e.previous_until > now() THEN e.previous_until END AS previous_secret_until,
                    greatest(newest.position - reached.position - reached.beyond, 0) AS events_behind,
                    CASE WHEN newest.position > reached.position + reached.beyond THEN
                        greatest(floor(extract(epoch FROM clock_timestamp() - waiting.at)), 0)
                    ELSE 0 END::bigint AS seconds_behind,
                    failures.open, failures.parked
             FROM webhook_endpoints AS e
             CROSS JOIN LATERAL (
                 SELECT coalesce(max(position), 0) AS position FROM (
                     SELECT first_position + cardinality(subjects) - 1 AS position FROM event_runs
                     WHERE account_id = e.account_id ORDER BY first_position DESC LIMIT 1
                 ) AS last
             ) AS newest
             CROSS JOIN LATERAL (
                 SELECT coalesce(max(position), e.after_position) AS position, coalesce(max(beyond), 0) AS beyond FROM (
                     SELECT position, bit_count(done::bit(64)) AS beyond FROM webhook_progress
                     WHERE account_id = e.account_id AND endpoint_id = e.endpoint_id AND replay = 0
                     ORDER BY number DESC LIMIT 1
                 ) AS progress
             ) AS reached
             CROSS JOIN LATERAL (
                 SELECT coalesce(
                     (SELECT at FROM event_runs WHERE account_id = e.account_id AND first_position <= reached.position + 1
                      ORDER BY first_position DESC LIMIT 1),
                     (SELECT at FROM event_runs WHERE account_id = e.account_id ORDER BY first_position LIMIT 1)
                 ) AS at
             ) AS waiting
             CROSS JOIN LATERAL (
                 SELECT count(next_at) AS open, count(*) - count(next_at) AS parked FROM webhook_failures
                 WHERE account_id = e.account_id AND endpoint_id = e.endpoint_id
             ) AS failures
             WHERE e.account_id = $1 ",
            $which
        )
    };
}

/// An account's endpoint of this id.
///
/// # Errors
/// When the database fails.
pub async fn find(
    conn: &mut PgConnection,
    account_id: AccountId,
    endpoint_id: EndpointId,
) -> Result<Option<ShownEndpoint>, sqlx::Error> {
    sqlx::query_as(select_endpoints!("AND e.endpoint_id = $2"))
        .bind(account_id)
        .bind(endpoint_id)
        .fetch_optional(conn)
        .await
}

/// All endpoints of an account, oldest first.
///
/// # Errors
/// When the database fails.
pub async fn list(
    conn: &mut PgConnection,
    account_id: AccountId,
) -> Result<Endpoints, sqlx::Error> {
    let endpoints = sqlx::query_as(select_endpoints!("ORDER BY e.endpoint_id LIMIT $2"))
        .bind(account_id)
        .bind(MAX_ENDPOINTS)
        .fetch_all(conn)
        .await?;
    Ok(Endpoints { webhook_endpoints: endpoints })
}
