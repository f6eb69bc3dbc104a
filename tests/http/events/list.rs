//! `GET /events`: an account's events, the oldest first.

use std::sync::Arc;

use payonce_testing::{
    FeedReader, PAYMENT, TestDatabase, TestServer, client::Response, feed::fill,
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    database::privileges::{GRANTS, Role},
    openapi::checked::Description,
};

fn positions(page: &Response) -> Vec<i64> {
    assert_eq!(page.status, 200, "{}", page.body);
    let page = page.json();
    page["events"].as_array().unwrap().iter().map(|one| one["position"].as_i64().unwrap()).collect()
}

async fn server_with(sizes: &[i64]) -> TestServer {
    let server = TestServer::start().await;
    fill(&server.database, sizes).await;
    server
}

#[tokio::test]
async fn a_page_has_events_in_their_envelopes_and_says_where_it_ends() {
    let server = TestServer::start().await;
    let empty = server.get("/events").await;
    assert_eq!(empty.status, 200);
    assert_eq!(empty.header("content-type"), "application/json");
    assert_eq!(empty.header("cache-control"), "no-store");
    let feed = empty.field("feed");
    let nothing = json!({
        "events": [], "next_after": 0, "last_position": 0, "feed": feed, "complete_since": null
    });
    assert_eq!(empty.json(), nothing);
    assert!(feed.len() == 32 && feed.bytes().all(|byte| byte.is_ascii_hexdigit()), "{feed}");

    fill(&server.database, &[10]).await;
    let time = "UPDATE payments SET created_at = '2026-12-01 09:00:00.1239Z';
                UPDATE refunds SET created_at = '2026-12-01 10:00:00Z';
                UPDATE event_runs SET at = '2026-12-01 11:00:00Z'";
    server.database.execute(time).await;
    let page = server.get("/events?after=8").await;
    let payment = r#"{"event_id":"evt_00000000000000000000000000000009_1","position":9,"type":"payment.created","timestamp":"2026-12-01T11:00:00.000Z","data":{"transaction_id":"00000000-0000-0000-0000-000000000009","status":"success","user_id":"user_9","amount":9,"currency":"USD","created_at":"2026-12-01T09:00:00.123Z"}}"#;
    let refund = r#"{"event_id":"evt_00000000000000000001000000000010_2","position":10,"type":"refund.created","timestamp":"2026-12-01T11:00:00.000Z","data":{"refund_id":"00000000-0000-0000-0001-000000000010","transaction_id":"00000000-0000-0000-0000-000000000010","amount":10,"currency":"USD","refunded_after":10,"created_at":"2026-12-01T10:00:00.000Z"}}"#;
    assert_eq!(
        page.body,
        format!(
            r#"{{"events":[{payment},{refund}],"next_after":10,"last_position":10,"feed":"{feed}","complete_since":null}}"#
        )
    );
}

#[tokio::test]
async fn head_has_the_headers_of_get() {
    let server = server_with(&[3]).await;
    let (get, head) =
        tokio::join!(server.get("/events"), server.request(Method::HEAD, "/events", &[], ""));
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    for name in ["content-type", "cache-control", "content-length"] {
        assert_eq!(head.header(name), get.header(name), "{name}");
    }
}

#[tokio::test]
async fn a_reader_with_a_cursor_gets_each_event_once_whatever_its_limit() {
    let server = server_with(&[1, 3, 100, 57, 100, 1, 38]).await;
    for limit in [1, 7, 50, 199, 200] {
        let mut reader = FeedReader::new(&format!("&limit={limit}"));
        while reader.read_page(server.address).await != Some(0) {}
        assert_eq!(reader.events.len(), 300, "limit {limit}");
    }
    assert_eq!(positions(&server.get("/events").await).len(), 50);
}

#[tokio::test]
async fn a_filter_shows_the_named_types_and_moves_the_cursor_past_the_others() {
    let server = server_with(&[7, 18]).await;
    let get = async |query: &str| {
        let page = server.get(&format!("/events?{query}")).await;
        (positions(&page), page.field("next_after"))
    };
    assert_eq!(get("type=refund.created").await, (vec![10, 20], "25".to_owned()));
    assert_eq!(get("type=refund.created&limit=1").await, (vec![10], "10".to_owned()));
    assert_eq!(get("type=refund.created&after=20").await, (vec![], "25".to_owned()));
    let all: Vec<i64> = (1..=25).collect();
    let both = "type=refund.created,payment.created";
    assert_eq!(get(both).await, (all.clone(), "25".to_owned()));
    assert_eq!(get(&format!("{both},refund.created")).await.0, all);
    assert_eq!(get("type=refund.created%2Cpayment.created").await.0, all);
}

#[tokio::test]
async fn wrong_parameters_are_named() {
    let server = TestServer::start().await;
    for (query, pointer) in [
        ("after=-1", "/after"),
        ("after=+1", "/after"),
        ("after=x", "/after"),
        ("after=9223372036854775808", "/after"),
        ("limit=0", "/limit"),
        ("limit=201", "/limit"),
        ("type=", "/type"),
        ("type=payment.created,", "/type"),
        ("type=PAYMENT.CREATED", "/type"),
        ("feed=x", "/feed"),
        ("cursor=1", "/cursor"),
        ("after=1&after=1", "/after"),
    ] {
        let response = server.get(&format!("/events?{query}")).await;
        response.assert_problem(400, "invalid-query");
        assert_eq!(response.pointers(), [pointer], "{query}");
    }
    let response = server.get("/events?type=payment.created,payment.crated,x").await;
    assert_eq!(
        response.json()["errors"][0]["detail"],
        "unknown event type `payment.crated`, `x`; expected payment.created, refund.created"
    );
}

#[tokio::test]
async fn a_cursor_whose_events_were_deleted_is_told_what_it_missed_and_how_to_go_on() {
    let server = server_with(&[10, 10, 5]).await;
    server.database.execute("DELETE FROM event_runs WHERE first_position = 1").await;
    for query in ["", "?after=3", "?after=9&type=refund.created&limit=1"] {
        let gone = server.get(&format!("/events{query}")).await;
        gone.assert_problem(410, "events-expired");
        assert_eq!(gone.json()["oldest_position"], 11);
        assert_eq!(gone.json()["last_position"], 25);
        assert_eq!(gone.field("feed").len(), 32);
    }
    let detail = server.get("/events?after=3").await.field("detail");
    assert!(detail.contains("from 4 to 10 ") && detail.contains("after=10."), "{detail}");
    assert_eq!(positions(&server.get("/events?after=10").await), (11..=25).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_cursor_beyond_the_end_is_told_that_positions_have_begun_anew() {
    let server = TestServer::start().await;
    let gone = server.get("/events?after=1").await;
    gone.assert_problem(410, "events-rewound");
    assert_eq!(gone.json()["last_position"], 0);
    fill(&server.database, &[10]).await;
    assert_eq!(positions(&server.get("/events?after=10").await), Vec::<i64>::new());
    let gone = server.get("/events?after=11").await;
    gone.assert_problem(410, "events-rewound");
    assert_eq!(gone.json()["last_position"], 10);
    assert_eq!(gone.json()["oldest_position"], Value::Null);
    server.get("/events?after=9223372036854775807").await.assert_problem(410, "events-rewound");
}

#[tokio::test]
async fn a_cursor_of_another_feed_is_told_the_current_one() {
    let server = server_with(&[5, 5]).await;
    let feed = server.get("/events").await.field("feed");
    assert_eq!(positions(&server.get(&format!("/events?feed={feed}&after=9")).await), [10]);
    server.database.execute("UPDATE event_feed SET feed_id = gen_random_uuid()").await;
    let gone = server.get(&format!("/events?feed={feed}&after=9")).await;
    gone.assert_problem(410, "events-rewound");
    assert_eq!(gone.json()["last_position"], 10);
    let renewed = gone.field("feed");
    assert_ne!(renewed, feed);
    assert_eq!(server.get("/events").await.field("feed"), renewed);
    let all = server.get(&format!("/events?feed={renewed}&after=0")).await;
    assert_eq!(positions(&all).len(), 10);
    // Deleted events of this feed are not what a cursor of another one missed.
    server.database.execute("DELETE FROM event_runs WHERE first_position = 1").await;
    let gone = server.get(&format!("/events?feed={feed}&after=1")).await;
    gone.assert_problem(410, "events-rewound");
}

#[tokio::test]
async fn the_feed_of_every_server_and_role_of_a_database_is_the_same() {
    let server = server_with(&[1]).await;
    let other = server.another().await;
    let feed = server.get("/events").await.field("feed");
    assert_eq!(other.get("/events").await.field("feed"), feed);
    let database = &server.database;
    let role = Role::with(database, GRANTS).await;
    let flags = ["--auto-migrate", "false"];
    let granted = TestServer::start_through(database, &role.options(), &flags).await;
    assert_eq!(granted.get("/events").await.field("feed"), feed);
    drop(granted);
    role.drop().await;
}

/// Some providers of PostgreSQL keep functions about the cluster for themselves.
#[tokio::test]
async fn a_role_that_may_not_read_the_cluster_gets_a_feed_all_the_same() {
    let database = Arc::new(TestDatabase::create().await);
    fill(&database, &[1]).await;
    database.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM public").await;
    let role = Role::with(&database, GRANTS).await;
    let flags = ["--auto-migrate", "false"];
    let server = TestServer::start_through(&database, &role.options(), &flags).await;
    let page = server.get("/events").await;
    assert_eq!(positions(&page), [1]);
    let feed = page.field("feed");
    database.execute("UPDATE event_feed SET feed_id = gen_random_uuid()").await;
    assert_ne!(server.get("/events").await.field("feed"), feed);
    drop(server);
    role.drop().await;
}

#[tokio::test]
async fn an_account_sees_its_own_events_only() {
    let server = server_with(&[3]).await;
    let [ada, bob] = [server.account("ada").await, server.account("bob").await];
    let take = format!("UPDATE event_runs SET account_id = '{}'", ada.id);
    server.database.execute(&take).await;
    server.database.execute(&take.replace("event_runs", "payments")).await;
    assert_eq!(positions(&ada.get("/events").await), [1, 2, 3]);
    assert_eq!(positions(&bob.get("/events").await), Vec::<i64>::new());
    bob.get("/events?after=1").await.assert_problem(410, "events-rewound");
    server.get("/events").await.assert_problem(401, "unauthorized");
}

/// Ids are unique by chance, not by a constraint over all accounts.
#[tokio::test]
async fn an_event_shows_its_own_accounts_payment_where_another_has_the_same_id() {
    let server = server_with(&[10]).await;
    let before = server.get("/events").await.body;
    let copy = "INSERT INTO payments (account_id, transaction_id, user_id, amount)
                    SELECT gen_random_uuid(), transaction_id, 'other', 500 FROM payments;
                INSERT INTO refunds (account_id, refund_id, transaction_id, amount, refunded_after)
                    SELECT p.account_id, refund_id, transaction_id, 2, 2
                    FROM refunds JOIN payments AS p USING (transaction_id) WHERE p.user_id = 'other'";
    server.database.execute(copy).await;
    assert_eq!(server.get("/events").await.body, before);
}

#[tokio::test]
async fn an_event_whose_payment_is_missing_is_an_error_and_is_not_skipped() {
    let server = server_with(&[3]).await;
    server.database.execute("DELETE FROM payments WHERE amount = 2").await;
    server.get("/events").await.assert_problem(500, "internal");
    assert_eq!(positions(&server.get("/events?limit=1").await), [1]);
}

#[tokio::test]
async fn the_feed_says_since_when_it_is_complete() {
    let server = server_with(&[1]).await;
    let since = "UPDATE event_feed SET complete_since = '2026-12-01 09:00:00Z'";
    server.database.execute(since).await;
    let page = server.get("/events").await;
    assert_eq!(page.field("complete_since"), "2026-12-01T09:00:00.000Z");
}

#[tokio::test]
async fn while_events_are_off_the_feed_shows_what_is_there_and_is_complete_since_now() {
    let database = Arc::new(TestDatabase::create().await);
    fill(&database, &[2]).await;
    let server = TestServer::start_on(&database, &["--events", "off"]).await;
    let before: String = database
        .value("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS')")
        .await;
    assert_eq!(server.pay("k", PAYMENT).await.status, 201);
    let page = server.get("/events?after=1").await;
    assert_eq!(positions(&page), [2]);
    assert!(page.json()["complete_since"].as_str().unwrap() > before.as_str(), "{}", page.body);
}

#[tokio::test]
async fn a_payment_and_its_refunds_are_events_of_their_account() {
    let server = TestServer::start().await;
    let [ada, bob] = [server.account("ada").await, server.account("bob").await];
    let payment = ada.paid("k", 100).await;
    assert_eq!(ada.pay("k", r#"{"user_id": "user_1", "amount": 100}"#).await.status, 200);
    let mut refunds = Vec::new();
    for amount in [30, 20] {
        let body = format!(r#"{{"amount": {amount}}}"#);
        refunds.push(ada.refund(&payment, &format!("r{amount}"), &body).await.field("refund_id"));
    }
    // A refusal is no event.
    assert_eq!(ada.refund(&payment, "r51", r#"{"amount": 51}"#).await.status, 402);
    let other = bob.paid("k", 5).await;

    let mut reader = FeedReader::of(ada.http.clone(), "&wait=30");
    reader.read_until(|| vec![server.address], |reader| reader.events.len() == 3).await;
    let shown = ada.get(&format!("/payment/{payment}")).await.json();
    let created = json!({
        "transaction_id": payment, "status": "success", "user_id": "user_1", "amount": 100, "currency": "USD",
        "created_at": shown["created_at"]
    });
    assert_eq!(reader.events[0].data, created);
    assert_eq!(reader.events[0].timestamp, shown["created_at"]);
    for ((event, refund), [amount, after]) in
        reader.events[1..].iter().zip(&refunds).zip([[30, 30], [20, 50]])
    {
        let shown = shown["refunds"].as_array().unwrap().iter();
        let shown = shown.clone().find(|one| one["refund_id"] == refund.as_str()).unwrap();
        let created = json!({
            "refund_id": refund, "transaction_id": payment, "amount": amount, "currency": "USD",
            "refunded_after": after, "created_at": shown["created_at"]
        });
        assert_eq!((event.event_type.as_str(), &event.data), ("refund.created", &created));
    }
    assert_eq!(reader.events[0].event_id, format!("evt_{}_1", payment.replace('-', "")));
    let of_bob = bob.get("/events?wait=30").await;
    assert_eq!(of_bob.json()["events"][0]["data"]["transaction_id"], other.as_str());
    assert_eq!(positions(&of_bob), [1]);
}

#[tokio::test]
async fn every_response_matches_the_description() {
    let server = server_with(&[10, 10]).await;
    let description = Description(server.get("/openapi.json").await.json());
    let says = async |status: u16, query: &str| {
        let response = server.get(&format!("/events?{query}")).await;
        assert_eq!(response.status, status, "{query}: {}", response.body);
        description.assert_says("get", "/events", &response);
    };
    says(200, "").await;
    says(200, "after=20").await;
    says(400, "x").await;
    says(410, "after=21").await;
    server.database.execute("UPDATE event_feed SET complete_since = now()").await;
    says(200, "limit=1&type=refund.created").await;
    server.database.execute("DELETE FROM event_runs WHERE first_position = 1").await;
    says(410, "").await;
    server.database.execute("DROP TABLE event_feed").await;
    says(500, "").await;
    let closed = server.showing("Bearer x").get("/events").await;
    description.assert_says("get", "/events", &closed);
}
