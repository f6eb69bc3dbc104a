//! `GET /events?wait=`: long polls.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use payonce_testing::{
    TestServer,
    client::Response,
    feed::fill,
    wait::{pending_until_released, until},
};

const SECOND: Duration = Duration::from_secs(1);

fn positions(page: &Response) -> Vec<i64> {
    assert_eq!(page.status, 200, "{}", page.body);
    let page = page.json();
    page["events"].as_array().unwrap().iter().map(|one| one["position"].as_i64().unwrap()).collect()
}

#[tokio::test]
async fn a_request_waits_for_an_event_that_another_server_sequences() {
    let server = TestServer::start_with(&["--read-connections", "1"]).await;
    let begun = Instant::now();
    // Those that wait hold no connection and no turn: others are answered meanwhile.
    let wait = || server.get("/events?wait=30");
    let others = async || {
        for _ in 0..10 {
            assert_eq!(server.get("/payment").await.status, 200);
            assert_eq!(positions(&server.get("/events").await), Vec::<i64>::new());
        }
    };
    let waiting = join_all([wait(), wait(), wait()]);
    let (pages, ()) = pending_until_released(waiting, others(), fill(&server.database, &[2])).await;
    for page in pages {
        assert_eq!(positions(&page), [1, 2]);
        assert_eq!(
            (page.field("next_after"), page.field("last_position")),
            ("2".into(), "2".into())
        );
    }
    assert!(begun.elapsed() < 25 * SECOND, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_request_does_not_wait_where_there_are_events() {
    let server = TestServer::start().await;
    fill(&server.database, &[20]).await;
    let begun = Instant::now();
    assert_eq!(positions(&server.get("/events?wait=30&after=18").await), [19, 20]);
    server.get("/events?wait=30&after=21").await.assert_problem(410, "events-rewound");
    assert!(begun.elapsed() < 25 * SECOND);
}

#[tokio::test]
async fn a_wait_ends_after_its_time_and_is_bounded() {
    let server = TestServer::start().await;
    let begun = Instant::now();
    let page = server.get("/events?wait=1").await;
    assert_eq!(positions(&page), Vec::<i64>::new());
    assert!(begun.elapsed() >= SECOND);
    for wait in ["31", "-1", "1.5", "1s", ""] {
        let response = server.get(&format!("/events?wait={wait}")).await;
        response.assert_problem(400, "invalid-query");
        assert_eq!(response.pointers(), ["/wait"], "{wait}");
    }
    assert_eq!(server.get("/events?wait=0").await.status, 200);
}

#[tokio::test]
async fn hidden_events_move_the_cursor_and_do_not_end_the_wait() {
    let server = TestServer::start().await;
    let wait = server.get("/events?wait=3&type=refund.created");
    let (page, ()) = tokio::join!(wait, fill(&server.database, &[9]));
    assert_eq!(positions(&page), Vec::<i64>::new());
    assert_eq!(page.field("next_after"), "9");
}

#[tokio::test]
async fn a_feed_that_is_renewed_during_the_wait_is_told() {
    let server = TestServer::start().await;
    let feed = server.get("/events").await.field("feed");
    let path = format!("/events?wait=30&feed={feed}");
    let renew = async {
        server.database.execute("UPDATE event_feed SET feed_id = gen_random_uuid()").await;
        fill(&server.database, &[1]).await;
    };
    let others = server.get("/events");
    let (page, _) = pending_until_released(server.get(&path), others, renew).await;
    page.assert_problem(410, "events-rewound");
}

#[tokio::test]
async fn beyond_half_of_all_connections_a_request_is_answered_at_once() {
    let server = TestServer::start_with(&["--connection-limit", "8"]).await;
    let begun = Instant::now();
    let waiting = join_all((0..4).map(|_| server.get("/events?wait=20")));
    let others = until("a request does not wait", async || {
        let begun = Instant::now();
        assert_eq!(positions(&server.get("/events?wait=1").await), Vec::<i64>::new());
        begun.elapsed() < SECOND
    });
    let (pages, ()) = pending_until_released(waiting, others, fill(&server.database, &[1])).await;
    assert!(pages.iter().all(|page| positions(page) == [1]));
    assert!(begun.elapsed() < 15 * SECOND, "{:?}", begun.elapsed());
    // Their places are free again.
    let begun = Instant::now();
    assert_eq!(server.get("/events?wait=1&after=1").await.status, 200);
    assert!(begun.elapsed() >= SECOND);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stops_answers_those_who_wait() {
    let mut server = TestServer::start().await;
    let client = server.anonymous.clone();
    let begun = Instant::now();
    let waiting = tokio::spawn(async move { client.get("/events?wait=30").await });
    until("the request waits", async || {
        let reads = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                     AND state = 'idle' AND query LIKE '%unnest%AS waiting%'";
        server.database.number(reads).await > 0
    })
    .await;
    tokio::task::spawn_blocking(move || server.stop()).await.unwrap();
    let page = waiting.await.unwrap();
    assert_eq!(positions(&page), Vec::<i64>::new());
    assert_eq!(page.header("connection"), "close");
    assert!(begun.elapsed() < 25 * SECOND, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn head_waits_as_get_does() {
    let server = TestServer::start().await;
    let begun = Instant::now();
    let head = server.request(reqwest::Method::HEAD, "/events?wait=1", &[], "").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert!(begun.elapsed() >= SECOND);
}
