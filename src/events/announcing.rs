//! The record of whether servers announce what they execute.

use sqlx::PgConnection;

/// Records whether this server announces. When announcing begins again, the feed is complete only since then.
///
/// # Errors
/// When the database fails.
pub async fn set_announcing(conn: &mut PgConnection, announcing: bool) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE event_feed
         SET announcing = $1, complete_since = CASE WHEN $1 THEN now() ELSE complete_since END
         WHERE announcing <> $1",
    )
    .bind(announcing)
    .execute(conn)
    .await
    .map(drop)
}
