//! New payments beside large tables, while a sweeper runs, with random keys and with keys in order of time.
//!
//! The tables are filled by SQL: random keys, with ids in order of time over the last day. `pg_prewarm` reads the indexes
//! that are written all over, which a database that has run for a while has in memory.
//!
//! Each run begins with a checkpoint, after which the first change of each page writes the whole page to the write-ahead
//! log. So a load runs first that is not measured. As many responses have expired as new ones will be stored, which is what
//! a sweeper has to delete in the long run. The sizes take turns in each round. Payments of earlier rounds stay in the
//! tables, so the keys are counted before each run.
//!
//! A second server sweeps. It is started for each run, because a sweeper begins with the oldest responses.

use sqlx::{Connection, PgConnection};

use super::{
    Knobs,
    comparison::stop,
    load::{Load, Requests},
    machine::Machine,
    meters::Meters,
    results::{Collected, Results, Sample, float},
    support::{TestDatabase, binary::Serve},
};

pub const CLIENTS: u32 = 64;
pub const RANDOM: &str = "random keys";
pub const ORDERED: &str = "keys in order of time";

/// Loads on large tables run so many times longer than others, and three times that before they are measured.
const LONGER: u64 = 4;
const WARM_UP: u64 = 3;

/// About the rate of new payments.
const EXPIRED_PER_SECOND: u64 = 20_000;

pub async fn run(knobs: &Knobs) -> Results {
    let mut databases = Vec::new();
    for keys in &knobs.growth {
        let database = TestDatabase::create().await;
        fill(&database, *keys).await;
        databases.push((*keys, database));
    }
    let machine = Machine::this(&databases[0].1).await;
    let (mut collected, seconds) = (Collected::default(), knobs.seconds * LONGER);
    for round in 1..=knobs.rounds {
        eprintln!("round {round} of {}", knobs.rounds);
        for (keys, filled) in &databases {
            for (scenario, requests) in [(RANDOM, Requests::New), (ORDERED, Requests::Ordered)] {
                let sample = if *keys == 0 {
                    // It must be empty in each round.
                    measure(&filled.copy().await, requests, seconds, 0).await
                } else {
                    measure(filled, requests, seconds, WARM_UP * seconds).await
                };
                collected.add(scenario, *keys, sample);
            }
        }
    }
    collected.results(machine, seconds, knobs.rounds)
}

/// Runs a load on one server beside the sweeper of another.
async fn measure(
    database: &TestDatabase,
    requests: Requests,
    seconds: u64,
    warm_up: u64,
) -> Sample {
    database.execute("CHECKPOINT").await;
    let serve = start(database, "never");
    if warm_up > 0 {
        Load::run(serve.address, requests, CLIENTS, warm_up);
    }
    insert_expired(database, seconds * EXPIRED_PER_SECOND).await;
    let (keys_before, swept_before) = (keys(database).await, swept(database).await);
    let sweeping = start(database, "1s");
    let meters = Meters::go_on(database, Some(serve.child.id())).await;
    let mut sample = Load::run(serve.address, requests, CLIENTS, seconds);
    meters.stop(&mut sample).await;
    stop(sweeping);
    sample.insert("swept".to_owned(), swept(database).await - swept_before);
    sample.insert("keys_before".to_owned(), keys_before);
    stop(serve);
    sample
}

/// Starts a server that sweeps so often.
fn start(database: &TestDatabase, sweep_interval: &str) -> Serve {
    Serve::start(&database.options, &[("SWEEP_INTERVAL", sweep_interval)])
}

/// The number of keys.
async fn keys(database: &TestDatabase) -> f64 {
    float(database.number("SELECT count(*) FROM idempotency_keys").await)
}

/// The number of responses deleted so far.
async fn swept(database: &TestDatabase) -> f64 {
    let deleted = "SELECT coalesce(sum(n_tup_del), 0)::bigint FROM pg_stat_user_tables
                   WHERE relname = 'idempotency_responses'";
    float(database.number(deleted).await)
}

/// Inserts so many responses that expired an hour ago.
async fn insert_expired(database: &TestDatabase, responses: u64) {
    let insert = format!(
        "INSERT INTO idempotency_responses (account_id, execution_id, status, headers, body, replayable_until)
         SELECT '00000000-0000-0000-0000-000000000000', id, 201, 'location: /payment/' || id || E'\\n', convert_to('{{\"transaction_id\":\"' || id || '\"}}', 'UTF8'),
                now() - interval '1 hour'
         FROM generate_series(1, {responses}) AS n
         CROSS JOIN LATERAL (SELECT (lpad(to_hex((extract(epoch FROM now() - interval '25 hours') * 1000)::bigint + n / 20), 12, '0')
                                     || '7000a000' || lpad(to_hex(n), 12, '0'))::uuid) AS i(id)"
    );
    database.execute(&insert).await;
}

/// Inserts so many keys, each with its response and its payment.
async fn fill(database: &TestDatabase, keys: u32) {
    if keys == 0 {
        return;
    }
    eprintln!("{keys} keys");
    // An index of random keys is built far faster than it grows.
    database.execute("ALTER TABLE idempotency_keys DROP CONSTRAINT idempotency_keys_pkey").await;
    let (mut a, mut b, mut c) =
        (database.connect().await, database.connect().await, database.connect().await);
    tokio::join!(
        insert(
            &mut a,
            "INSERT INTO idempotency_keys (account_id, key, execution_id, operation, fingerprint, created_at)
             SELECT '00000000-0000-0000-0000-000000000000', gen_random_uuid()::text, id, 'pay',
                    decode('01' || substr(repeat(md5(n::text), 2), 1, 48), 'hex'), made_at",
            keys
        ),
        insert(
            &mut b,
            "INSERT INTO idempotency_responses (account_id, execution_id, status, headers, body, replayable_until)
             SELECT '00000000-0000-0000-0000-000000000000', id, 201, 'location: /payment/' || id || E'\\n',
                    convert_to('{\"status\":\"success\",\"transaction_id\":\"' || id || '\",\"user_id\":\"user_1000\",\"amount\":100}', 'UTF8'),
                    made_at + interval '24 hours'",
            keys
        ),
        insert(
            &mut c,
            "INSERT INTO payments (transaction_id, account_id, user_id, amount, created_at)
             SELECT id, '00000000-0000-0000-0000-000000000000', 'user_' || 1000 + n % 9000, 100, made_at",
            keys
        ),
    );
    for conn in [a, b, c] {
        conn.close().await.unwrap();
    }
    database
        .execute(
            "SET maintenance_work_mem = '1GB';
             ALTER TABLE idempotency_keys ADD PRIMARY KEY (key, account_id)",
        )
        .await;
    // Otherwise autovacuum would run during a load.
    database.execute("VACUUM (ANALYZE)").await;
    database
        .execute(
            "CREATE EXTENSION pg_prewarm;
             SELECT pg_prewarm('idempotency_keys_pkey'), pg_prewarm('payments_by_user')",
        )
        .await;
    database.execute("CHECKPOINT").await;
}

/// Runs an INSERT … SELECT over so many executions of the last 23 hours.
async fn insert(conn: &mut PgConnection, statement: &'static str, keys: u32) {
    let statement = format!(
        "{statement}
         FROM generate_series(1, $1::bigint) AS n
         CROSS JOIN LATERAL (SELECT now() - interval '23 hours' * (1 - n::float8 / $1)) AS t(made_at)
         CROSS JOIN LATERAL (SELECT (lpad(to_hex((extract(epoch FROM made_at) * 1000)::bigint), 12, '0')
                                     || '7000a000' || lpad(to_hex(n), 12, '0'))::uuid) AS i(id)"
    );
    let query = sqlx::query(sqlx::AssertSqlSafe(statement)).bind(i64::from(keys));
    query.execute(conn).await.unwrap();
}
