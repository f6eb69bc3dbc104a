//! Endpoints that are disabled, changed or gone.

use std::sync::Arc;

use payonce_testing::{
    TestDatabase, TestServer,
    metrics::reaches,
    receiver::{Answer, Receiver},
    webhooks::LOCAL_RECEIVERS,
};

async fn start(database: &Arc<TestDatabase>) -> TestServer {
    TestServer::start_on(database, &LOCAL_RECEIVERS).await
}

async fn database() -> Arc<TestDatabase> {
    Arc::new(TestDatabase::create().await)
}

fn disabled(reason: &str) -> String {
    format!(
        "SELECT count(*) FROM webhook_endpoints WHERE NOT enabled AND disabled_reason = '{reason}'"
    )
}

const ENABLE: &str = "UPDATE webhook_endpoints
    SET enabled = true, disabled_reason = NULL, failing_since = NULL, resume_at = NULL";

#[tokio::test]
async fn a_410_disables_an_endpoint_which_loses_nothing() {
    let database = database().await;
    let receiver = Receiver::start().await;
    receiver.answer(Answer::Status(410));
    database.create_events(50).await;
    database.create_endpoint(&receiver.url("hook"), 0).await;
    let server = start(&database).await;
    database.until(&disabled("gone"), |count| count == 1).await;
    let attempts = receiver.count();
    assert!(attempts < 16, "{attempts}");
    reaches(&server.metrics, "payonce_webhook_endpoints_disabled_total{reason=\"gone\"}", 1).await;

    receiver.answer(Answer::Status(200));
    database.execute(ENABLE).await;
    database.until_delivered(1, 50).await;
    database.until("SELECT count(*) FROM webhook_failures", |count| count == 0).await;
    assert_eq!(receiver.count(), attempts + 50);
}

#[tokio::test]
async fn an_endpoint_that_fails_for_five_days_is_disabled() {
    let database = database().await;
    let receiver = Receiver::start().await;
    receiver.answer(Answer::Status(500));
    database.create_events(1).await;
    database.create_endpoint(&receiver.url("hook"), 0).await;
    let server = start(&database).await;
    let failing = "SELECT count(*) FROM webhook_endpoints WHERE failing_since IS NOT NULL";
    database.until(failing, |count| count == 1).await;
    drop(server);
    for (days, is_disabled) in [(4, 0), (5, 1)] {
        let before = receiver.count();
        database
            .execute(&format!(
                "UPDATE webhook_endpoints SET failing_since = now() - interval '{days} days', resume_at = NULL;
                 UPDATE webhook_failures SET next_at = now()"
            ))
            .await;
        let server = start(&database).await;
        receiver.until(before + 1).await;
        drop(server);
        assert_eq!(database.number(&disabled("failing")).await, is_disabled, "{days} days");
    }
}

#[tokio::test]
async fn nothing_is_missing_after_two_days_of_failures_and_two_days_disabled() {
    let database = database().await;
    let receiver = Receiver::start().await;
    receiver.answer(Answer::Status(503));
    database.create_events(100).await;
    database.create_endpoint(&receiver.url("hook"), 0).await;
    let server = start(&database).await;
    receiver.until(8).await;
    drop(server);
    let failed = receiver.count();
    let two_days_later = "
        UPDATE webhook_failures SET next_at = next_at - interval '2 days';
        UPDATE webhook_endpoints SET failing_since = failing_since - interval '2 days',
            resume_at = resume_at - interval '2 days', last_success_at = last_success_at - interval '2 days';
        UPDATE event_runs SET at = at - interval '2 days'";
    database.execute(two_days_later).await;
    database.execute("UPDATE webhook_endpoints SET enabled = false").await;
    database.create_events(100).await;
    database.execute(two_days_later).await;
    receiver.answer(Answer::Status(200));
    database.execute(ENABLE).await;
    let _server = start(&database).await;
    database.until_delivered(1, 200).await;
    database.until("SELECT count(*) FROM webhook_failures", |count| count == 0).await;
    let mut positions = receiver.positions("hook");
    assert_eq!(positions.len(), failed + 200);
    positions.sort_unstable();
    positions.dedup();
    assert_eq!(positions, (1..=200).collect::<Vec<_>>());
}

#[tokio::test]
async fn events_that_expired_before_their_delivery_are_told_as_lost() {
    let database = database().await;
    let receiver = Receiver::start().await;
    database.create_events(300).await;
    database.create_endpoint(&receiver.url("hook"), 20).await;
    database
        .execute(
            "INSERT INTO webhook_failures
                 (account_id, endpoint_id, position, type, version, subject, payment_id, at, attempts)
             SELECT account_id, endpoint_id, 20, 1, 1, endpoint_id, endpoint_id, now(), 12 FROM webhook_endpoints;
             DELETE FROM event_runs WHERE first_position <= 200",
        )
        .await;
    let server = start(&database).await;
    database.until_delivered(1, 300).await;
    assert_eq!(receiver.count(), 100);
    let lost = "SELECT count(*) FROM webhook_endpoints WHERE lost_from = 21 AND lost_to = 200";
    assert_eq!(database.number(lost).await, 1);
    reaches(&server.metrics, "payonce_webhook_events_lost_total", 180).await;
    // A parked event that expired can't be replayed.
    database.until("SELECT count(*) FROM webhook_failures", |count| count == 0).await;
}

#[tokio::test]
async fn changing_disabling_and_deleting_an_endpoint_take_effect_while_it_is_called() {
    let database = database().await;
    let [old, new] = [Receiver::start().await, Receiver::start().await];
    database.create_events(1).await;
    database.create_endpoint(&old.url("hook"), 0).await;
    let _server = start(&database).await;
    old.until(1).await;
    database.execute(&format!("UPDATE webhook_endpoints SET url = '{}'", new.url("hook"))).await;
    payonce_testing::wait::until("the new URL is called", async || {
        database.create_events(1).await;
        new.count() > 0
    })
    .await;
    let other = Receiver::start().await;
    database.create_endpoint(&other.url("other"), 0).await;
    for change in ["UPDATE webhook_endpoints SET enabled = false", "DELETE FROM webhook_endpoints"]
    {
        database.execute(&format!("{change} WHERE url LIKE '%/hook'")).await;
        let renewed = "SELECT count(*) FROM webhook_endpoints WHERE url LIKE '%/other' AND lease_until > now() + interval '24 seconds'";
        // Two renewals of the other endpoint: the first may have begun before.
        for _ in 0..2 {
            let before: String = database.value("SELECT coalesce(max(lease_until), now())::text FROM webhook_endpoints WHERE url LIKE '%/other'").await;
            database
                .until(&format!("{renewed} AND lease_until > '{before}'"), |count| count > 0)
                .await;
            database.create_events(1).await;
        }
        let last = database
            .number("SELECT max(first_position + cardinality(subjects)) FROM event_runs")
            .await;
        database.create_events(20).await;
        payonce_testing::wait::until("the other endpoint has them", async || {
            other.positions("other").contains(&(last + 19))
        })
        .await;
        let called = new.positions("hook");
        assert!(called.iter().all(|position| *position < last), "{change}: {called:?}");
    }
}

#[tokio::test]
async fn events_of_other_types_are_passed_over_without_a_call() {
    let database = database().await;
    let receiver = Receiver::start().await;
    database.create_events(3000).await;
    database.create_refunded(5).await;
    database.create_endpoint(&receiver.url("hook"), 0).await;
    database.execute("UPDATE webhook_endpoints SET event_types = '{2}'").await;
    let _server = start(&database).await;
    database.until_delivered(1, 3015).await;
    let received = receiver.received();
    assert_eq!(received.len(), 10);
    assert!(received.iter().all(|one| one.json()["type"] == "refund.created"));
}

#[tokio::test]
async fn a_server_that_cannot_decrypt_a_secret_leaves_the_endpoint_to_another() {
    let database = database().await;
    let receiver = Receiver::start().await;
    database.create_events(5).await;
    let other = "another-secret-of-thirty-two-characters";
    database.create_endpoint_under(other, &receiver.url("other"), 0).await;
    database.create_endpoint(&receiver.url("damaged"), 0).await;
    database
        .execute("UPDATE webhook_endpoints SET secret = set_byte(secret, 20, 255 - get_byte(secret, 20)) WHERE url LIKE '%damaged'")
        .await;
    database.create_endpoint(&receiver.url("own"), 0).await;
    let server = start(&database).await;
    receiver.until(5).await;
    reaches(&server.metrics, "payonce_webhook_endpoints_undecryptable", 1).await;
    assert_eq!(receiver.positions("own").len(), 5);
    assert_eq!(receiver.count(), 5);
}
