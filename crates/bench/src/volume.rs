//! Many payments on one server: the memory that it needs, and the disk space of a payment.

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

/// The length of one load.
const SECONDS: u64 = 3;

/// Creates at least so many payments, and reads the server's memory after a tenth and at the end.
pub async fn run(template: &TestDatabase, payments: f64) -> Sample {
    let database = template.copy().await;
    // The sweeper has its connection and its first pass before the memory is read.
    let serve = Serve::start(&database.options, &[("SWEEP_INTERVAL", "1s")]);
    let (mut created, mut seconds, mut sample) = (0.0, 0.0, Sample::new());
    for (name, share) in [("tenth", 0.1), ("last", 1.0)] {
        while created < payments * share {
            let load = Load::run(serve.address, Requests::New, CLIENTS, SECONDS);
            created += load["requests"];
            seconds += load["seconds"];
        }
        let memory = meters::memory(serve.child.id());
        sample.extend(memory.map(|memory| (format!("memory_{name}_mib"), memory)));
    }
    stop(serve);
    sample.insert("payments".to_owned(), created);
    sample.insert("rate".to_owned(), created / seconds);
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
