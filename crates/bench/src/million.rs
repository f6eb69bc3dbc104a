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

/// Takes at least so many payments, and tells the server's memory after a tenth, after half and after all of them.
pub async fn run(template: &TestDatabase, payments: f64) -> Sample {
    let database = template.copy().await;
    // The sweeper's connection and first pass are to be in all three looks.
    let serve = Serve::start(&database.options, &[("SWEEP_INTERVAL", "1s")]);
    let (mut made, mut seconds, mut sample) = (0.0, 0.0, Sample::new());
    for (name, share) in [("tenth", 0.1), ("half", 0.5), ("last", 1.0)] {
        while made < payments * share {
            let load = Load::run(serve.address, Requests::New, CLIENTS, SECONDS);
            made += load["requests"];
            seconds += load["seconds"];
        }
        let memory = meters::memory(serve.child.id());
        sample.extend(memory.map(|memory| (format!("memory_{name}_mib"), memory)));
    }
    stop(serve);
    sample.insert("payments".to_owned(), made);
    sample.insert("rate".to_owned(), made / seconds);
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
