//! The limit for these rows: one connection that never waits for a request, and commits full batches.
//!
//! The tables are payonce's. There is no HTTP, no advisory lock, nothing to be looked up and nothing to be joined: all
//! arrays of a batch go to three inserts in one statement, its own transaction, and the next batch is made meanwhile.

use std::time::{Duration, Instant};

use futures_util::future::join;
use sqlx::{Connection, Executor, PgConnection};
use uuid::Uuid;

use super::{
    results::{Sample, float},
    support::TestDatabase,
};

const ACCOUNT: Uuid = Uuid::nil();

/// Payments as arrays, by key.
struct Batch {
    accounts: Vec<Uuid>,
    keys: Vec<String>,
    ids: Vec<Uuid>,
    users: Vec<String>,
    headers: Vec<String>,
    bodies: Vec<Vec<u8>>,
}

impl Batch {
    fn of(size: u32) -> Self {
        let ids: Vec<Uuid> = (0..size).map(|_| Uuid::now_v7()).collect();
        let mut keys: Vec<String> = ids.iter().map(|_| Uuid::new_v4().to_string()).collect();
        keys.sort();
        let users: Vec<String> =
            ids.iter().map(|_| format!("user_{}", fastrand::u32(1000..=9999))).collect();
        Self {
            accounts: vec![ACCOUNT; ids.len()],
            keys,
            headers: ids.iter().map(|id| format!("location: /payment/{id}\n")).collect(),
            bodies: ids.iter().zip(&users).map(|(id, user)| body(id, user)).collect(),
            users,
            ids,
        }
    }

    async fn insert(&self, conn: &mut PgConnection) {
        let inserted = sqlx::query(
            "WITH claimed AS (
                 INSERT INTO idempotency_keys (account_id, key, execution_id, operation, fingerprint)
                 SELECT unnest($1::uuid[]), unnest($2::text[]), unnest($3::uuid[]), unnest($4::text[]), unnest($5::bytea[])
             ), inserted AS (
                 INSERT INTO payments (transaction_id, account_id, user_id, amount)
                 SELECT unnest($3::uuid[]), unnest($1::uuid[]), unnest($6::text[]), unnest($7::bigint[])
             )
             INSERT INTO idempotency_responses (execution_id, status, headers, body, replayable_until)
             SELECT unnest($3::uuid[]), 201, unnest($8::text[]), unnest($9::bytea[]), now() + interval '1 day'",
        )
        .bind(&self.accounts)
        .bind(&self.keys)
        .bind(&self.ids)
        .bind(vec!["pay"; self.ids.len()])
        .bind(vec![[1_u8; 25].to_vec(); self.ids.len()])
        .bind(&self.users)
        .bind(vec![100_i64; self.ids.len()])
        .bind(&self.headers)
        .bind(&self.bodies)
        .execute(conn)
        .await
        .unwrap();
        assert_eq!(usize::try_from(inserted.rows_affected()), Ok(self.ids.len()));
    }
}

/// Commits batches of so many payments for so many seconds.
pub async fn run(database: &TestDatabase, size: u32, seconds: u64) -> Sample {
    let mut conn = database.connect().await;
    // As payonce plans: the tables were empty a moment ago.
    conn.execute("SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan")
        .await
        .unwrap();
    let (begun, mut batches, mut batch) = (Instant::now(), 0_u32, Batch::of(size));
    while begun.elapsed() < Duration::from_secs(seconds) {
        // In this order: it is sent before the next one is made.
        let ((), next) = join(batch.insert(&mut conn), async { Batch::of(size) }).await;
        (batch, batches) = (next, batches + 1);
    }
    let seconds = begun.elapsed().as_secs_f64();
    conn.close().await.unwrap();
    let requests = float(batches) * float(size);
    Sample::from([("requests".to_owned(), requests), ("rate".to_owned(), requests / seconds)])
}

fn body(id: &Uuid, user: &str) -> Vec<u8> {
    format!(r#"{{"status":"success","transaction_id":"{id}","user_id":"{user}","amount":100}}"#)
        .into_bytes()
}
