//! An account's share of the queue.

use std::time::Duration;

use futures_util::future::join_all;
use sqlx::{PgConnection, raw_sql};

use crate::support::{PAYMENT, TestServer};

/// Holds up every payment until it is released, for up to a second.
async fn lock_payments(server: &TestServer) -> PgConnection {
    let mut holder = server.database.connect().await;
    raw_sql("BEGIN; LOCK TABLE payments").execute(&mut holder).await.unwrap();
    holder
}

async fn release(mut holder: PgConnection) {
    raw_sql("ROLLBACK").execute(&mut holder).await.unwrap();
}

async fn a_moment() {
    tokio::time::sleep(Duration::from_millis(150)).await;
}

#[tokio::test]
async fn a_crowd_of_copies_is_bounded_too() {
    let server = TestServer::start_with(&["--account-queue-limit", "2", "--committers", "1"]).await;
    let holder = lock_payments(&server).await;
    let copies = join_all((0..12).map(|_| server.pay("crowd", PAYMENT)));
    let (copies, ()) = tokio::join!(copies, async {
        a_moment().await;
        a_moment().await;
        release(holder).await;
    });
    let count = |status| copies.iter().filter(|answer| answer.status == status).count();
    // One leads, four for each of two keys follow it.
    assert_eq!((count(201), count(200), count(429)), (1, 8, 3), "{copies:?}");
    assert_eq!(server.pay("crowd", PAYMENT).await.status, 200);
}
