//! A million payments on one server: whether its memory grows, and how much disk a payment takes.

use sqlx::Row;

use super::{
    comparison::stop,
    load::{Load, Requests},
    meters,
    results::{Sample, float},
    support::{TestDatabase, binary::Serve},
};

pub const SCENARIO: &str = "a million payments";
pub const CLIENTS: u32 = 256;

/// Seconds between two looks at the memory.
const SECONDS: u64 = 3;

/// Takes at least so many payments. `memory_first_mib` is the server's after the first seconds of load.
pub async fn run(template: &TestDatabase, payments: f64) -> Sample {
    let database = template.copy().await;
    let serve = Serve::start(&database.options, &[]);
    let (mut made, mut seconds, mut memories) = (0.0, 0.0, Vec::new());
    while made < payments {
        let sample = Load::run(serve.address, Requests::New, CLIENTS, SECONDS);
        made += sample["requests"];
        seconds += sample["seconds"];
        memories.extend(meters::memory(serve.child.id()));
    }
    stop(serve);
    let mut sample =
        Sample::from([("payments".to_owned(), made), ("rate".to_owned(), made / seconds)]);
    if let [first, .., last] = memories[..] {
        sample.insert("memory_first_mib".to_owned(), first);
        sample.insert("memory_last_mib".to_owned(), last);
    }
    sample.extend(sizes(&database).await);
    sample
}

/// Bytes a payment takes in each table and index.
async fn sizes(database: &TestDatabase) -> Sample {
    database.execute("VACUUM").await;
    let payments = float(database.payments().await);
    let mut conn = database.connect().await;
    let rows = sqlx::query(
        "SELECT relname::text AS name, pg_relation_size(pg_class.oid) AS bytes FROM pg_class
         WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'i')
           AND pg_relation_size(pg_class.oid) > 1000000",
    )
    .fetch_all(&mut conn)
    .await
    .unwrap();
    let size = |row: &sqlx::postgres::PgRow| {
        let (name, bytes): (String, i64) = (row.get("name"), row.get("bytes"));
        (format!("bytes of {name}"), float(bytes) / payments)
    };
    rows.iter().map(size).collect()
}
