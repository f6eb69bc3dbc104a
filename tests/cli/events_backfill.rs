//! `payonce events backfill` announces what has no event, and `payonce events renew` gives the feed a new id.

use std::sync::Arc;

use payonce_testing::{PAYMENT, TestDatabase, TestServer};
use serde_json::json;
use sqlx::raw_sql;

const EVENTS: &str = "SELECT coalesce(sum(cardinality(subjects)), 0)::bigint FROM event_runs";

/// Payments and refunds without events, as a server without them leaves them.
async fn without_events() -> Arc<TestDatabase> {
    let database = Arc::new(TestDatabase::create().await);
    let off = TestServer::start_on(&database, &["--events", "off"]).await;
    let payment = off.paid("a", 100).await;
    off.pay("b", PAYMENT).await;
    for (key, amount) in [("r1", 30), ("r2", 20)] {
        let body = format!(r#"{{"amount":{amount}}}"#);
        assert_eq!(off.refund(&payment, key, &body).await.status, 201);
    }
    database.execute("UPDATE refunds SET ordinal = NULL, refunded_after = NULL").await;
    database
}

#[tokio::test]
async fn a_backfill_announces_each_payment_and_refund_without_an_event_once() {
    let database = without_events().await;
    assert_eq!(database.operate(&["events", "backfill", "--json"]), json!({ "events": 4 }));
    // They wait to be sequenced, and are not announced again.
    assert_eq!(database.operate(&["events", "backfill", "--json"]), json!({ "events": 0 }));
    let server = TestServer::start_on(&database, &[]).await;
    database.until(EVENTS, |events| events == 4).await;
    server.pay("c", PAYMENT).await;
    database.until(EVENTS, |events| events == 5).await;
    let (code, stdout, stderr) = database.run(&["events", "backfill"]);
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (0, "0 events announced\n", ""));
    let twice = "SELECT count(*) FROM (SELECT unnest(subjects) FROM event_runs
                 EXCEPT ALL (SELECT transaction_id FROM payments UNION ALL SELECT refund_id FROM refunds)) AS more";
    assert_eq!(database.number(twice).await, 0);
    let incomplete = "SELECT count(*) FROM event_feed WHERE complete_since IS NOT NULL";
    assert_eq!(database.number(incomplete).await, 0);
}

#[tokio::test]
async fn a_backfill_gives_refunds_their_places_in_the_order_of_their_ids() {
    let database = without_events().await;
    database.operate(&["events", "backfill", "--json"]);
    let places = "SELECT string_agg(ordinal || ':' || amount || ':' || refunded_after, ' ' ORDER BY refund_id) FROM refunds";
    assert_eq!(database.value::<String>(places).await, "1:30:30 2:20:50");
}

#[tokio::test]
async fn payments_are_announced_before_refunds() {
    let database = without_events().await;
    let off = TestServer::start_on(&database, &["--events", "off"]).await;
    off.paid("c", 100).await;
    database.operate(&["events", "backfill", "--json"]);
    let types = "SELECT types::text FROM announcements";
    assert_eq!(database.value::<String>(types).await, "{1,1,1,2,2}");
}

#[tokio::test]
async fn an_event_that_has_expired_is_not_announced_again() {
    let database = Arc::new(TestDatabase::create().await);
    let server = TestServer::start_on(&database, &[]).await;
    for key in ["a", "b", "c"] {
        server.pay(key, PAYMENT).await;
    }
    database.until(EVENTS, |events| events == 3).await;
    database.execute("UPDATE event_runs SET at = at - interval '31 days'").await;
    database.execute("UPDATE payments SET created_at = created_at - interval '31 days'").await;
    drop(server);
    let swept = database.operate(&["sweep", "--json"]);
    assert_eq!(swept["events"], 2, "all but the newest");
    assert_eq!(database.operate(&["events", "backfill", "--json"]), json!({ "events": 0 }));
}

#[tokio::test]
async fn one_backfill_runs_at_a_time() {
    let database = TestDatabase::create().await;
    let mut other = database.connect().await;
    raw_sql("SELECT pg_advisory_lock(1885436271, 2)").execute(&mut other).await.unwrap();
    let (code, _, stderr) = database.run(&["events", "backfill"]);
    assert_eq!(code, 1);
    assert!(stderr.contains("another backfill is running"), "{stderr}");
}

#[tokio::test]
async fn renew_gives_the_feed_a_new_id() {
    let database = TestDatabase::create().await;
    let id = "SELECT feed_id::text FROM event_feed";
    let before = database.value::<String>(id).await;
    assert_eq!(database.run(&["events", "renew"]).0, 0);
    assert_ne!(database.value::<String>(id).await, before);
}
