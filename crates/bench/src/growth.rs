//! The same with many keys in the tables, while the sweeper runs: at each size, with keys at random and in order of time.
//!
//! The tables are filled by SQL: keys at random, ids in order of time over the last day. Those of their indexes that grow
//! all over are then read into memory, where a database that has run for a while has them. Each run begins with a
//! checkpoint, and is measured twice: right after it, when the first change of each page writes all of the page to the log,
//! and when most of that is over, which the load goes on for in between. Before each time as many answers are put in that
//! have expired as will be new, which is what a sweeper has to do in the long run. Empty tables are measured once, and once
//! more with as much to sweep, which tells what of the difference is not of the keys. The sizes take turns, round by round;
//! what a run adds stays, so how many keys there are is counted each time. The limit of ceiling.rs follows each time on the
//! same tables: what of the difference is PostgreSQL's own.
//!
//! Each time the sweeper is that of another server, started for it, which gets no requests: a sweeper begins with the oldest
//! answers and doesn't come back to them, and the server that gets the requests goes on.

use sqlx::{Connection, PgConnection};

use super::{
    Knobs, ceiling,
    comparison::stop,
    load::{Load, Requests},
    machine::Machine,
    meters::Meters,
    results::{Collected, Results, Sample, float},
    support::{TestDatabase, binary::Serve},
};

pub const CLIENTS: u32 = 64;
pub const RANDOM: &str = "keys at random";
pub const RANDOM_AT_FIRST: &str = "keys at random, right after a checkpoint";
pub const RANDOM_SWEEPING: &str = "keys at random, with as much to sweep";
/// The limit, which has no sweeper beside it.
pub const RANDOM_LIMIT: &str = "keys at random, one connection, full batches of 64, no sweeper";
pub const ORDERED: &str = "keys in order of time";
pub const ORDERED_AT_FIRST: &str = "keys in order of time, right after a checkpoint";
pub const ORDERED_SWEEPING: &str = "keys in order of time, with as much to sweep";

/// Large tables need longer to show what they cost.
const TIMES_AS_LONG: u64 = 4;

/// For how many times that long payments go on between the two times.
pub const BETWEEN: u64 = 3;

/// About the rate of new payments.
const EXPIRING_A_SECOND: u64 = 20_000;

pub async fn run(knobs: &Knobs) -> Results {
    let mut databases = Vec::new();
    for keys in &knobs.growth {
        let database = TestDatabase::create().await;
        fill(&database, *keys).await;
        databases.push((*keys, database));
    }
    let machine = Machine::this(&databases[0].1).await;
    let (mut collected, seconds) = (Collected::default(), knobs.seconds * TIMES_AS_LONG);
    for round in 1..=knobs.rounds {
        eprintln!("round {round} of {}", knobs.rounds);
        for (keys, filled) in &databases {
            for (scenario, at_first, sweeping, requests) in [
                (RANDOM, RANDOM_AT_FIRST, RANDOM_SWEEPING, Requests::New),
                (ORDERED, ORDERED_AT_FIRST, ORDERED_SWEEPING, Requests::Ordered),
            ] {
                if *keys == 0 {
                    // It has no pages to write whole, and isn't empty any more after one time.
                    for (scenario, expired) in
                        [(scenario, 0), (sweeping, seconds * EXPIRING_A_SECOND)]
                    {
                        let database = filled.copy().await;
                        let serve = begin(&database, expired).await;
                        let sample = measured(&database, &serve, requests, seconds).await;
                        collected.add(scenario, *keys, sample);
                        stop(serve);
                    }
                    if requests == Requests::New {
                        let database = filled.copy().await;
                        database.execute("CHECKPOINT").await;
                        collected.add(RANDOM_LIMIT, *keys, limit(&database, seconds).await);
                    }
                    continue;
                }
                let expired = seconds * EXPIRING_A_SECOND;
                let serve = begin(filled, expired).await;
                collected.add(at_first, *keys, measured(filled, &serve, requests, seconds).await);
                Load::run(serve.address, requests, CLIENTS, BETWEEN * seconds);
                insert_expired(filled, expired).await;
                collected.add(scenario, *keys, measured(filled, &serve, requests, seconds).await);
                stop(serve);
                if requests == Requests::New {
                    collected.add(RANDOM_LIMIT, *keys, limit(filled, seconds).await);
                }
            }
        }
    }
    collected.results(machine, seconds, knobs.rounds)
}

/// So many answers that have expired, a checkpoint, and a server that doesn't sweep.
async fn begin(database: &TestDatabase, expired: u64) -> Serve {
    insert_expired(database, expired).await;
    database.execute("CHECKPOINT").await;
    start(database, "never")
}

/// A server that sweeps so often.
fn start(database: &TestDatabase, sweep_interval: &str) -> Serve {
    Serve::start(&database.options, &[("SWEEP_INTERVAL", sweep_interval)])
}

/// A load on a server that goes on, beside a sweeper; what it cost, and what was swept meanwhile.
async fn measured(
    database: &TestDatabase,
    serve: &Serve,
    requests: Requests,
    seconds: u64,
) -> Sample {
    let keys = keys(database).await;
    let before = swept(database).await;
    let sweeping = start(database, "1s");
    let meters = Meters::go_on(database, Some(serve.child.id())).await;
    let mut sample = Load::run(serve.address, requests, CLIENTS, seconds);
    meters.stop(&mut sample).await;
    stop(sweeping);
    sample.insert("swept".to_owned(), swept(database).await - before);
    sample.insert("keys_before".to_owned(), keys);
    sample
}

/// What one connection does with the same tables, and what that cost.
async fn limit(database: &TestDatabase, seconds: u64) -> Sample {
    let keys = keys(database).await;
    let meters = Meters::go_on(database, None).await;
    let mut sample = ceiling::run(database, CLIENTS, seconds).await;
    meters.stop(&mut sample).await;
    sample.insert("keys_before".to_owned(), keys);
    sample
}

/// How many keys there are.
async fn keys(database: &TestDatabase) -> f64 {
    float(database.number("SELECT count(*) FROM idempotency_keys").await)
}

/// How many answers were deleted so far.
async fn swept(database: &TestDatabase) -> f64 {
    let deleted = "SELECT coalesce(sum(n_tup_del), 0)::bigint FROM pg_stat_user_tables
                   WHERE relname = 'idempotency_responses'";
    float(database.number(deleted).await)
}

/// Puts so many answers in that expired an hour ago. Their keys are among those that are there, as it were.
async fn insert_expired(database: &TestDatabase, answers: u64) {
    let insert = format!(
        "INSERT INTO idempotency_responses (account_id, execution_id, status, headers, body, replayable_until)
         SELECT '00000000-0000-0000-0000-000000000000', id, 201, 'location: /payment/' || id || E'\\n', convert_to('{{\"transaction_id\":\"' || id || '\"}}', 'UTF8'),
                now() - interval '1 hour'
         FROM generate_series(1, {answers}) AS n
         CROSS JOIN LATERAL (SELECT (lpad(to_hex((extract(epoch FROM now() - interval '25 hours') * 1000)::bigint + n / 20), 12, '0')
                                     || '7000a000' || lpad(to_hex(n), 12, '0'))::uuid) AS i(id)"
    );
    database.execute(&insert).await;
}

/// Puts so many keys in, each with its answer and its payment.
async fn fill(database: &TestDatabase, keys: u32) {
    if keys == 0 {
        return;
    }
    eprintln!("{keys} keys");
    // Entries at random are made far faster all at once.
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
    // Or autovacuum would do it in the middle of a run.
    database.execute("VACUUM (ANALYZE)").await;
    database
        .execute(
            "CREATE EXTENSION pg_prewarm;
             SELECT pg_prewarm('idempotency_keys_pkey'), pg_prewarm('payments_by_user')",
        )
        .await;
    database.execute("CHECKPOINT").await;
}

/// Runs an INSERT … SELECT over the executions of the last 23 hours.
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
