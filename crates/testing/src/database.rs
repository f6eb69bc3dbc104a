//! A migrated database for each test, copied from a template.
//!
//! Tests connect to the database of `DATABASE_URL` only to create, list and drop databases called
//! `payonce_test_…`, and never write to it.

use std::{
    process,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use sqlx::{
    AssertSqlSafe, Connection, Decode, Executor, PgConnection, Postgres, Type,
    postgres::PgConnectOptions,
    raw_sql,
    types::chrono::{DateTime, Utc},
};
use tokio::{sync::OnceCell, time::sleep};

use super::wait::until;

/// Left behind by a run that was killed, when older than this.
const STALE_AFTER: Duration = Duration::from_hours(1);

/// Counts the other clients of the current database.
const OTHER_CLIENTS: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
     AND backend_type = 'client backend' AND pid <> pg_backend_pid()";

/// Makes the large tables hash-partitioned (docs/operations/scaling.md).
const PARTITION: &str = include_str!("../../../docs/operations/partition.sql");

/// The one thing of the environment, or of `.env`, that tests go by.
pub fn maintenance() -> PgConnectOptions {
    let url = std::env::var("DATABASE_URL").ok().or_else(|| {
        let variables = dotenvy::from_path_iter(concat!(env!("CARGO_MANIFEST_DIR"), "/../../.env"))
            .ok()?
            .flatten();
        variables.into_iter().find(|(name, _)| name == "DATABASE_URL").map(|(_, url)| url)
    });
    let url = url.expect(
        "tests need a PostgreSQL: run scripts/with-postgres cargo test, or set DATABASE_URL",
    );
    url.parse().expect("DATABASE_URL is a PostgreSQL URL")
}

/// Takes the advisory lock of this key of the nil account, as another server would.
pub fn take_lock(key: &str) -> String {
    let digest = format!("sha256(decode(repeat('00', 16), 'hex') || '{key}'::bytea)");
    format!(
        "SELECT pg_advisory_xact_lock(('x' || encode(substr({digest}, 1, 8), 'hex'))::bit(64)::bigint)"
    )
}

/// Dropped, with the database, when the test is over.
pub struct TestDatabase {
    name: String,
    pub options: PgConnectOptions,
}

impl TestDatabase {
    /// A database with all migrations, and nothing in it.
    pub async fn create() -> Self {
        static TEMPLATE: OnceCell<String> = OnceCell::const_new();
        let template = TEMPLATE.get_or_init(template).await;
        Self::create_from(template).await
    }

    /// A copy, with everything that is in it. Nobody may be connected to it.
    pub async fn copy(&self) -> Self {
        Self::create_from(&self.name).await
    }

    /// Splits its large tables into this many partitions each.
    pub async fn partition(&self, partitions: u32) {
        self.execute(&partitioning(partitions)).await;
    }

    /// A database without any table.
    pub async fn create_empty() -> Self {
        Self::create_from("template0").await
    }

    /// A database with all migrations and plain tables, even where `PAYONCE_TEST_PARTITIONS` is set.
    pub async fn create_plain() -> Self {
        let database = Self::create_empty().await;
        payonce::db::migrate(&database.options).await.unwrap();
        database
    }

    /// A database as an older version left it: with the migrations up to this one.
    pub async fn create_of_version(version: i64) -> Self {
        let database = Self::create_empty().await;
        let mut older = sqlx::migrate!("../../migrations");
        older.migrations.to_mut().retain(|migration| migration.version <= version);
        let mut conn = database.connect().await;
        older.run(&mut conn).await.unwrap();
        conn.close().await.unwrap();
        database
    }

    async fn create_from(template: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("payonce_test_{}_{}_{number}", seconds(), process::id());
        let mut conn = PgConnection::connect_with(&maintenance()).await.unwrap();
        // Another test may be copying the template this moment, or autovacuum looking into it.
        for attempt in 0.. {
            let create = format!("CREATE DATABASE {name} TEMPLATE {template} ENCODING 'UTF8'");
            match conn.execute(AssertSqlSafe(create)).await {
                Ok(_) => break,
                Err(_) if attempt < 50 => sleep(Duration::from_millis(50)).await,
                Err(error) => panic!("can't create a database for a test: {error}"),
            }
        }
        Self { options: maintenance().database(&name), name }
    }

    /// A connection of the test's own.
    pub async fn connect(&self) -> PgConnection {
        PgConnection::connect_with(&self.options).await.unwrap()
    }

    /// Runs statements.
    pub async fn execute(&self, sql: &str) {
        let mut conn = self.connect().await;
        conn.execute(AssertSqlSafe(sql)).await.unwrap();
        conn.close().await.unwrap();
    }

    /// Sets a parameter for all who connect from now on.
    pub async fn set(&self, parameter: &str) {
        self.execute(&format!("ALTER DATABASE {} SET {parameter}", self.name)).await;
    }

    /// Waits until at least this many sessions of this database wait for a lock on a row or table.
    pub async fn until_locks_are_waited_for(&self, sessions: i64) {
        let waiting = "SELECT count(*) FROM pg_stat_activity
                       WHERE datname = current_database() AND wait_event_type = 'Lock'";
        self.until(waiting, |count| count >= sessions).await;
    }

    /// Waits until the number that a query returns is right. All queries run on one connection.
    pub async fn until(&self, sql: &str, right: impl Fn(i64) -> bool) {
        let mut conn = self.connect().await;
        until_number(&mut conn, sql, right).await;
        conn.close().await.unwrap();
    }

    /// Waits until this many servers have looked once more whether API keys have changed.
    pub async fn until_api_keys_are_read(&self, servers: i64) {
        let now: DateTime<Utc> = self.value("SELECT clock_timestamp()").await;
        let looks = format!(
            "SELECT count(*) FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid() AND state = 'idle'
               AND query LIKE '%api_key_changes%' AND query_start > '{now}'"
        );
        self.until(&looks, |count| count >= servers).await;
    }

    /// Begins a transaction that holds up every payment, until it is ended.
    pub async fn lock_payments(&self) -> PgConnection {
        let mut holder = self.connect().await;
        raw_sql("BEGIN; LOCK TABLE payments").execute(&mut holder).await.unwrap();
        holder
    }

    /// Holds up payments for the user `held`, and every batch that contains one, until the returned
    /// connection is closed. Unlike a locked table, this outlasts the lock time-out of the batch.
    pub async fn hold_payments_of_held(&self) -> PgConnection {
        let trigger = "
            CREATE FUNCTION wait_for_holder() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                PERFORM set_config('lock_timeout', '0', true), pg_advisory_xact_lock_shared(1, 1);
                RETURN NEW;
            END $$;
            CREATE TRIGGER held BEFORE INSERT ON payments FOR EACH ROW WHEN (NEW.user_id = 'held')
                EXECUTE FUNCTION wait_for_holder()";
        self.execute(trigger).await;
        let mut holder = self.connect().await;
        raw_sql("SELECT pg_advisory_lock(1, 1)").execute(&mut holder).await.unwrap();
        holder
    }

    /// Lets every transaction that uses a key wait for rows without a lock time-out.
    pub async fn disable_lock_timeout(&self) {
        let trigger = "
            CREATE FUNCTION disable_lock_timeout() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                PERFORM set_config('lock_timeout', '0', true);
                RETURN NULL;
            END $$;
            CREATE TRIGGER disable_lock_timeout BEFORE INSERT ON idempotency_keys
                EXECUTE FUNCTION disable_lock_timeout()";
        self.execute(trigger).await;
    }

    /// Returns the number of other clients that are connected to it.
    pub async fn other_clients(&self) -> i64 {
        self.number(OTHER_CLIENTS).await
    }

    /// Waits until this many other clients are connected: PostgreSQL ends connections in its own time.
    pub async fn until_other_clients_are(&self, clients: i64) {
        self.until(OTHER_CLIENTS, |count| count == clients).await;
    }

    /// The number that a query gives.
    pub async fn number(&self, sql: &str) -> i64 {
        self.value(sql).await
    }

    /// The value that a query gives.
    pub async fn value<T>(&self, sql: &str) -> T
    where
        T: for<'r> Decode<'r, Postgres> + Type<Postgres> + Send + Unpin,
    {
        let mut conn = self.connect().await;
        let value = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut conn).await.unwrap();
        conn.close().await.unwrap();
        value
    }

    /// Returns the number of payments.
    pub async fn payments(&self) -> i64 {
        self.number("SELECT count(*) FROM payments").await
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let drop = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        block_on_elsewhere(async move {
            let mut conn = PgConnection::connect_with(&maintenance()).await?;
            conn.execute(AssertSqlSafe(drop)).await.map(|_| ())
        });
    }
}

/// Waits until the number that a query returns is right. For what is over soon, connect beforehand.
pub async fn until_number(conn: &mut PgConnection, sql: &str, right: impl Fn(i64) -> bool) {
    until(sql, async || {
        right(sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut *conn).await.unwrap())
    })
    .await;
}

/// Runs a future to its end from code that is not async, inside a runtime or not.
fn block_on_elsewhere<F>(future: F)
where
    F: Future<Output = Result<(), sqlx::Error>> + Send + 'static,
{
    let thread = std::thread::spawn(|| {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    });
    if let Ok(Err(error)) = thread.join() {
        eprintln!("a test database stays behind: {error}");
    }
}

fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// The statement that splits the large tables into this many partitions each.
fn partitioning(partitions: u32) -> String {
    format!("SET payonce.partitions = {partitions}; {PARTITION}")
}

/// The name of a migrated database, made by whichever test process comes first. With
/// `PAYONCE_TEST_PARTITIONS=8` its large tables have so many partitions.
async fn template() -> String {
    let partitions = std::env::var("PAYONCE_TEST_PARTITIONS").ok();
    let partitions: Option<u32> = partitions.map(|number| number.parse().expect("a number"));
    let fingerprint = fingerprint_of_migrations();
    let name = format!("payonce_test_template_{fingerprint:016x}_{}", partitions.unwrap_or(0));
    let mut conn = PgConnection::connect_with(&maintenance()).await.unwrap();
    conn.execute("SELECT pg_advisory_lock(hashtext('payonce tests: template'))").await.unwrap();
    drop_stale(&mut conn).await;
    let exists: bool =
        sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
            .bind(&name)
            .fetch_one(&mut conn)
            .await
            .unwrap();
    if !exists {
        // Under its own name only when it is complete: this process may be killed on the way.
        let unfinished = format!("payonce_test_{}_{}_unfinished", seconds(), process::id());
        let create = format!("CREATE DATABASE {unfinished} TEMPLATE template0 ENCODING 'UTF8'");
        conn.execute(AssertSqlSafe(create)).await.unwrap();
        let options = maintenance().database(&unfinished);
        payonce::db::migrate(&options).await.unwrap();
        if let Some(partitions) = partitions {
            let mut conn = PgConnection::connect_with(&options).await.unwrap();
            conn.execute(AssertSqlSafe(partitioning(partitions))).await.unwrap();
            conn.close().await.unwrap();
        }
        let rename = format!("ALTER DATABASE {unfinished} RENAME TO {name}");
        conn.execute(AssertSqlSafe(rename)).await.unwrap();
    }
    conn.close().await.unwrap();
    name
}

/// Drops what killed runs left behind.
async fn drop_stale(conn: &mut PgConnection) {
    let names: Vec<String> = sqlx::query_scalar(
        r"SELECT datname FROM pg_database WHERE datname ~ '^payonce_test_[0-9]+_'",
    )
    .fetch_all(&mut *conn)
    .await
    .unwrap();
    for name in names {
        let made =
            name.split('_').nth(2).and_then(|seconds| seconds.parse().ok()).unwrap_or(u64::MAX);
        if made.saturating_add(STALE_AFTER.as_secs()) < seconds() {
            let _ = conn.execute(AssertSqlSafe(format!("DROP DATABASE {name} WITH (FORCE)"))).await;
        }
    }
}

/// Changes whenever a migration does, or the way to partition.
fn fingerprint_of_migrations() -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../migrations");
    let mut files: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    for file in files {
        std::fs::read(file).unwrap().hash(&mut hasher);
    }
    PARTITION.hash(&mut hasher);
    hasher.finish()
}
