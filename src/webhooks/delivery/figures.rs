//! The state of all endpoints, for the metrics.

use std::{sync::Arc, time::Duration};

use log::warn;
use sqlx::PgConnection;
use tokio::time::sleep;

use super::reader::Reader;
use crate::{
    idempotency::loggable,
    metrics::{Endpoints, Webhooks},
    webhooks::secrets::KeyId,
};

/// Pause between two looks.
const PAUSE: Duration = Duration::from_secs(10);

/// Looks at all endpoints until the task ends.
pub(super) async fn forever(reader: Arc<Reader>, keys: Vec<KeyId>, metrics: Webhooks) {
    let mut undecryptable = 0;
    loop {
        sleep(PAUSE).await;
        match reader.run(async |conn| endpoints(conn, &keys).await).await {
            Ok(seen) => {
                if seen.undecryptable > undecryptable {
                    warn!(
                        "webhooks: this server delivers nothing to {} endpoints, because WEBHOOK_SECRET does not \
                         decrypt their signing secrets",
                        seen.undecryptable
                    );
                }
                undecryptable = seen.undecryptable;
                metrics.saw(&seen);
            }
            Err(error) => {
                warn!("webhooks: can't read how far endpoints are behind: {}", loggable(&error));
            }
        }
    }
}

async fn endpoints(conn: &mut PgConnection, keys: &[KeyId]) -> Result<Endpoints, sqlx::Error> {
    let keys: Vec<&[u8]> = keys.iter().map(KeyId::as_bytes).collect();
    sqlx::query_as(
        "SELECT count(*) AS enabled,
                count(failing_since) AS failing,
                count(*) FILTER (WHERE key_id <> ALL($1)) AS undecryptable,
                coalesce(max(behind) FILTER (WHERE failing_since IS NULL), 0)::bigint AS most_behind,
                coalesce(sum(behind) FILTER (WHERE failing_since IS NULL), 0)::bigint AS behind,
                coalesce(max(extract(epoch FROM now() - (
                    SELECT at FROM event_runs AS run
                    WHERE run.account_id = lag.account_id AND first_position <= lag.position + 1
                    ORDER BY first_position DESC LIMIT 1
                ))) FILTER (WHERE behind > 0 AND failing_since IS NULL), 0)::float8 AS oldest,
                (SELECT count(*) FROM webhook_failures WHERE next_at IS NOT NULL) AS open_failures,
                (SELECT count(*) FROM webhook_failures WHERE next_at IS NULL) AS parked
         FROM (
             SELECT account_id, key_id, failing_since, position, greatest(0, coalesce((
                        SELECT first_position + cardinality(subjects) - 1 FROM event_runs AS run
                        WHERE run.account_id = endpoint.account_id ORDER BY first_position DESC LIMIT 1
                    ), 0) - position) AS behind
             FROM webhook_endpoints AS endpoint CROSS JOIN LATERAL (
                 SELECT coalesce((
                     SELECT position FROM webhook_progress AS progress
                     WHERE progress.account_id = endpoint.account_id AND progress.endpoint_id = endpoint.endpoint_id
                       AND replay = 0
                     ORDER BY number DESC LIMIT 1
                 ), after_position) AS position
             ) AS reached
             WHERE enabled
         ) AS lag",
    )
    .bind(keys)
    .fetch_one(conn)
    .await
}
