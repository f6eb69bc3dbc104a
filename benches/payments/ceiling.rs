//! PostgreSQL's limit for these rows: one connection that never waits for a request, and commits full batches.
//!
//! The tables are payonce's, and so is the shape of the statements: one insert a table, over arrays. There is no HTTP, no
//! advisory lock, and nothing to be looked up.

use std::time::{Duration, Instant};

use sqlx::{Connection, Executor, PgConnection};
use uuid::Uuid;

use super::{
    results::{Sample, float},
    support::TestDatabase,
};

const ACCOUNT: Uuid = Uuid::nil();

/// Commits batches of so many payments for so many seconds.
pub async fn run(database: &TestDatabase, batch: u32, seconds: u64) -> Sample {
    let mut conn = database.connect().await;
    // As payonce plans: the tables were empty a moment ago.
    conn.execute("SET enable_seqscan = off").await.unwrap();
    let (begun, mut batches) = (Instant::now(), 0_u32);
    while begun.elapsed() < Duration::from_secs(seconds) {
        insert(&mut conn, batch).await.unwrap();
        batches += 1;
    }
    let seconds = begun.elapsed().as_secs_f64();
    conn.close().await.unwrap();
    let requests = float(batches) * float(batch);
    Sample::from([("requests".to_owned(), requests), ("rate".to_owned(), requests / seconds)])
}

async fn insert(conn: &mut PgConnection, batch: u32) -> Result<(), sqlx::Error> {
    let ids: Vec<Uuid> = (0..batch).map(|_| Uuid::now_v7()).collect();
    let keys: Vec<String> = ids.iter().map(|_| Uuid::new_v4().to_string()).collect();
    let accounts = vec![ACCOUNT; ids.len()];
    let users: Vec<String> =
        ids.iter().map(|_| format!("user_{}", fastrand::u32(1000..=9999))).collect();
    let headers: Vec<String> = ids.iter().map(|id| format!("location: /payment/{id}\n")).collect();
    let bodies: Vec<Vec<u8>> = ids.iter().zip(&users).map(|(id, user)| body(id, user)).collect();

    conn.execute("BEGIN ISOLATION LEVEL READ COMMITTED").await?;
    let claimed: Vec<Uuid> = sqlx::query_scalar(
        "INSERT INTO idempotency_keys (account_id, key, execution_id, operation, fingerprint)
         SELECT * FROM unnest($1::uuid[], $2::text[], $3::uuid[], $4::text[], $5::bytea[]) AS claim(account_id, key)
         ORDER BY key COLLATE \"C\"
         ON CONFLICT (key, account_id) DO NOTHING RETURNING execution_id",
    )
    .bind(&accounts)
    .bind(&keys)
    .bind(&ids)
    .bind(vec!["pay"; ids.len()])
    .bind(vec![[1_u8; 25].to_vec(); ids.len()])
    .fetch_all(&mut *conn)
    .await?;
    assert_eq!(claimed.len(), ids.len());
    sqlx::query(
        "INSERT INTO payments (transaction_id, account_id, user_id, amount)
         SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::bigint[])",
    )
    .bind(&ids)
    .bind(&accounts)
    .bind(&users)
    .bind(vec![100_i64; ids.len()])
    .execute(&mut *conn)
    .await?;
    sqlx::query(
        "INSERT INTO idempotency_responses (execution_id, status, headers, body, replayable_until)
         SELECT execution_id, 201, headers, body, now() + interval '1 day'
         FROM unnest($1::uuid[], $2::text[], $3::bytea[]) AS response(execution_id, headers, body)",
    )
    .bind(&ids)
    .bind(&headers)
    .bind(&bodies)
    .execute(&mut *conn)
    .await?;
    conn.execute("COMMIT").await?;
    Ok(())
}

fn body(id: &Uuid, user: &str) -> Vec<u8> {
    format!(r#"{{"status":"success","transaction_id":"{id}","user_id":"{user}","amount":100}}"#)
        .into_bytes()
}
