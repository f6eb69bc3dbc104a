//! The limit for these rows: one connection that never waits for a request, and commits full batches.
//!
//! The tables are payonce's. There is no HTTP, no advisory lock, nothing to be looked up and nothing to be joined: all
//! arrays of a batch go to three inserts in one statement, its own transaction, and the next batch is made meanwhile.
//! bare.rs puts HTTP before it.

use std::time::{Duration, Instant};

use futures_util::future::join;
use sqlx::{Connection, Executor, PgConnection};
use uuid::Uuid;

use super::{
    endpoint::{FINGERPRINT, Taken},
    results::{Sample, float},
    support::TestDatabase,
};

const ACCOUNT: Uuid = Uuid::nil();

const AMOUNT: i64 = 100;

/// Payments as arrays, by key.
#[derive(Default)]
pub struct Batch {
    accounts: Vec<Uuid>,
    keys: Vec<String>,
    ids: Vec<Uuid>,
    users: Vec<String>,
    amounts: Vec<i64>,
    headers: Vec<String>,
    bodies: Vec<Vec<u8>>,
}

impl Batch {
    fn of(size: u32) -> Self {
        let mut keys: Vec<String> = (0..size).map(|_| Uuid::new_v4().to_string()).collect();
        keys.sort();
        let mut batch = Self::default();
        for key in keys {
            let (id, user) = (Uuid::now_v7(), format!("user_{}", fastrand::u32(1000..=9999)));
            let body = Taken::body(id, &user, AMOUNT);
            batch.push(key, id, user, AMOUNT, body);
        }
        batch
    }

    /// Adds one.
    pub fn push(&mut self, key: String, id: Uuid, user: String, amount: i64, body: String) {
        self.accounts.push(ACCOUNT);
        self.keys.push(key);
        self.ids.push(id);
        self.users.push(user);
        self.amounts.push(amount);
        self.headers.push(format!("location: /payment/{id}\n"));
        self.bodies.push(body.into_bytes());
    }

    /// Commits them. None of the keys may be there.
    pub async fn insert(&self, conn: &mut PgConnection) {
        let inserted = sqlx::query(
            "WITH claimed AS (
                 INSERT INTO idempotency_keys (account_id, key, execution_id, operation, fingerprint)
                 SELECT unnest($1::uuid[]), unnest($2::text[]), unnest($3::uuid[]), unnest($4::text[]), unnest($5::bytea[])
             ), inserted AS (
                 INSERT INTO payments (transaction_id, account_id, user_id, amount)
                 SELECT unnest($3::uuid[]), unnest($1::uuid[]), unnest($6::text[]), unnest($7::bigint[])
             )
             INSERT INTO idempotency_responses (account_id, execution_id, status, headers, body, replayable_until)
             SELECT unnest($1::uuid[]), unnest($3::uuid[]), 201, unnest($8::text[]), unnest($9::bytea[]), now() + interval '1 day'",
        )
        .bind(&self.accounts)
        .bind(&self.keys)
        .bind(&self.ids)
        .bind(vec!["pay"; self.ids.len()])
        .bind(vec![[1_u8; FINGERPRINT].to_vec(); self.ids.len()])
        .bind(&self.users)
        .bind(&self.amounts)
        .bind(&self.headers)
        .bind(&self.bodies)
        .execute(conn)
        .await
        .unwrap();
        assert_eq!(usize::try_from(inserted.rows_affected()), Ok(self.ids.len()));
    }
}

/// Has it plan as payonce does: the tables were empty a moment ago.
pub async fn prepare(conn: &mut PgConnection) {
    conn.execute("SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan")
        .await
        .unwrap();
}

/// Commits batches of so many payments for so many seconds.
pub async fn run(database: &TestDatabase, size: u32, seconds: u64) -> Sample {
    let mut conn = database.connect().await;
    prepare(&mut conn).await;
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
