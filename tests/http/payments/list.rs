//! `GET /payment`: pages of payments, the newest first, that neither skip nor repeat.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use payonce_testing::{TestServer, client::Response};
use reqwest::Method;
use serde_json::Value;

async fn pay(server: &TestServer, key: &str, user: &str) -> String {
    let body = serde_json::json!({ "user_id": user, "amount": 1 }).to_string();
    let response = server.pay(key, &body).await;
    assert_eq!(response.status, 201, "{}", response.body);
    response.field("transaction_id")
}

pub(crate) fn ids(page: &Response) -> Vec<String> {
    assert_eq!(page.status, 200, "{}", page.body);
    let page = page.json();
    let payments = page["payments"].as_array().unwrap();
    payments.iter().map(|payment| payment["transaction_id"].as_str().unwrap().to_owned()).collect()
}

fn next(page: &Response) -> Option<String> {
    page.json()["next_cursor"].as_str().map(str::to_owned)
}

/// Reads all pages of a list, and calls `between` before each but the first.
async fn read_all(
    server: &TestServer,
    query: &str,
    mut between: impl AsyncFnMut(),
) -> Vec<Vec<String>> {
    let mut pages = Vec::new();
    let mut page = server.get(&format!("/payment?{query}")).await;
    loop {
        pages.push(ids(&page));
        let Some(cursor) = next(&page) else { return pages };
        between().await;
        page = server.get(&format!("/payment?{query}&cursor={cursor}")).await;
    }
}

#[tokio::test]
async fn a_list_shows_payments_as_they_are_read_and_the_newest_first() {
    let server = TestServer::start().await;
    let mut made = Vec::new();
    for number in 0..3 {
        made.push(pay(&server, &format!("k{number}"), "user_1").await);
    }
    let list = server.get("/payment").await;
    made.reverse();
    assert_eq!(ids(&list), made);
    assert_eq!(list.header("content-type"), "application/json");
    assert_eq!(list.header("cache-control"), "no-store");
    let mut shown = Vec::new();
    for id in &made {
        shown.push(server.get(&format!("/payment/{id}")).await.body);
    }
    assert_eq!(list.body, format!(r#"{{"payments":[{}],"next_cursor":null}}"#, shown.join(",")));
}

#[tokio::test]
async fn a_list_without_payments_is_empty() {
    let server = TestServer::start().await;
    for query in ["", "?", "?user_id=nobody", "?limit=1&"] {
        let list = server.get(&format!("/payment{query}")).await;
        assert_eq!(
            (list.status, list.body.as_str()),
            (200, r#"{"payments":[],"next_cursor":null}"#)
        );
    }
}

#[tokio::test]
async fn a_list_can_be_filtered_by_the_exact_user_id() {
    let server = TestServer::start().await;
    let users = ["user_1", "User_1", "user_1 ", "a&b=c d+é/%", "é", "e\u{301}"];
    for (number, user) in users.iter().enumerate() {
        let id = pay(&server, &format!("k{number}"), user).await;
        let mut query = reqwest::Url::parse("http://x").unwrap();
        query.query_pairs_mut().append_pair("user_id", user);
        let list = server.get(&format!("/payment?{}", query.query().unwrap())).await;
        assert_eq!(ids(&list), [id], "{user:?}");
        assert_eq!(list.json()["payments"][0]["user_id"], Value::from(*user));
    }
}

#[tokio::test]
async fn a_list_has_no_payments_of_other_accounts() {
    let server = TestServer::start().await;
    pay(&server, "theirs", "user_1").await;
    server.database.execute("UPDATE payments SET account_id = gen_random_uuid()").await;
    let ours = pay(&server, "ours", "user_1").await;
    for query in ["", "?user_id=user_1", "?limit=1"] {
        let list = server.get(&format!("/payment{query}")).await;
        assert_eq!((ids(&list), next(&list)), (vec![ours.clone()], None), "{query}");
    }
}

#[tokio::test]
async fn users_whose_hashes_collide_have_separate_lists() {
    let server = TestServer::start().await;
    // Makes all hashes equal.
    server
        .database
        .execute(
            "CREATE FUNCTION public.hashtextextended(text, bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS 'SELECT 1::bigint';
             DROP INDEX payments_by_user",
        )
        .await;
    server.database.set("search_path = public, pg_catalog").await;
    let server = server.another().await;
    let (one, two) = (pay(&server, "one", "user_1").await, pay(&server, "two", "user_2").await);
    assert_eq!(ids(&server.get("/payment?user_id=user_1").await), [one]);
    assert_eq!(ids(&server.get("/payment?user_id=user_2").await), [two]);
}

#[tokio::test]
async fn pages_have_up_to_200_payments_and_50_by_default() {
    let server = TestServer::start().await;
    let made =
        join_all((0..201).map(async |number| pay(&server, &format!("k{number}"), "user_1").await))
            .await;
    for (query, sizes) in [
        ("", vec![50, 50, 50, 50, 1]),
        ("limit=200", vec![200, 1]),
        ("limit=67&user_id=user_1", vec![67, 67, 67]),
        ("user_id=user_1&limit=100", vec![100, 100, 1]),
    ] {
        let pages = read_all(&server, query, async || {}).await;
        assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), sizes, "{query}");
        let listed = pages.concat();
        assert!(listed.is_sorted_by(|a, b| a > b), "the newest first, and none twice");
        assert_eq!(BTreeSet::from_iter(&listed), BTreeSet::from_iter(&made));
    }
    assert_eq!(ids(&server.get("/payment?limit=1").await).len(), 1);
}

#[tokio::test]
async fn pages_neither_skip_nor_repeat_payments_while_new_ones_are_created() {
    let server = TestServer::start().await;
    let other = server.another().await;
    for number in 0..60 {
        pay(&server, &format!("before-{number}"), if number % 2 == 0 { "even" } else { "odd" })
            .await;
    }
    for (query, count) in [("limit=7", 60), ("limit=7&user_id=even", 30)] {
        let before: BTreeSet<String> =
            read_all(&server, query, async || {}).await.concat().into_iter().collect();
        let mut number = 0;
        let pages = read_all(&server, query, async || {
            number += 1;
            let keys = [format!("{query}-{number}-a"), format!("{query}-{number}-b")];
            tokio::join!(pay(&server, &keys[0], "even"), pay(&other, &keys[1], "even"));
        })
        .await;
        let listed = pages.concat();
        assert!(listed.is_sorted_by(|a, b| a > b), "none twice");
        // New payments are newer than the first page and appear on no later one.
        assert_eq!(BTreeSet::from_iter(listed), before);
        assert!(before.len() >= count);
    }
}

#[tokio::test]
async fn a_payment_that_commits_late_is_listed_in_the_order_of_its_id() {
    let server = TestServer::start().await;
    let mut made = Vec::new();
    for number in 0..4 {
        made.push(pay(&server, &format!("k{number}"), "user_1").await);
    }
    // Two payments that other servers started earlier and commit now.
    let late = |id: &str| {
        format!(
            "INSERT INTO payments SELECT '{id}', account_id, user_id, 5, currency, status, now() FROM payments LIMIT 1"
        )
    };
    let (old, new) =
        ("00000000-0000-7000-8000-000000000000", "ffffffff-0000-7000-8000-000000000000");
    let mut first = true;
    let pages = read_all(&server, "limit=2", async || {
        if std::mem::take(&mut first) {
            server.database.execute(&late(old)).await;
            server.database.execute(&late(new)).await;
        }
    })
    .await;
    made.reverse();
    made.push(old.to_owned());
    assert_eq!(pages.concat(), made);
    assert_eq!(ids(&server.get("/payment?limit=1").await), [new]);
}

#[tokio::test]
async fn an_invalid_query_is_refused_with_every_invalid_parameter() {
    let server = TestServer::start().await;
    pay(&server, "k1", "user_1").await;
    pay(&server, "k2", "user_1").await;
    let cursor = next(&server.get("/payment?limit=1").await).unwrap();
    let (cut, long) = (&cursor[..cursor.len() - 1], format!("{cursor}0"));
    let hyphens = format!("1{}", "01a20b8e-f5ef-76cd-ab8e-bedcccfd17b0");
    let too_long = "u".repeat(256);
    for (query, pointers) in [
        ("limit=0", vec!["/limit"]),
        ("limit=201", vec!["/limit"]),
        ("limit=256", vec!["/limit"]),
        ("limit=-1", vec!["/limit"]),
        ("limit=%2B1", vec!["/limit"]),
        ("limit=1.0", vec!["/limit"]),
        ("limit=", vec!["/limit"]),
        ("limit", vec!["/limit"]),
        ("limit=1&limit=1", vec!["/limit"]),
        ("user_id=", vec!["/user_id"]),
        ("user_id=+", vec!["/user_id"]),
        ("user_id=a%00", vec!["/user_id"]),
        (&format!("user_id={too_long}"), vec!["/user_id"]),
        ("user_id=a&user_id=b", vec!["/user_id"]),
        ("cursor=", vec!["/cursor"]),
        ("cursor=nothing", vec!["/cursor"]),
        (&format!("cursor={cut}"), vec!["/cursor"]),
        (&format!("cursor={long}"), vec!["/cursor"]),
        (&format!("cursor={hyphens}"), vec!["/cursor"]),
        ("page=2", vec!["/page"]),
        ("limit=0&cursor=x&user_id=&a%2Fb=1", vec!["/user_id", "/limit", "/cursor", "/a~1b"]),
        ("user_id=%ff", vec![""]),
        (&"a&".repeat(3000), vec![""]),
    ] {
        let response = server.get(&format!("/payment?{query}")).await;
        response.assert_problem(400, "invalid-query");
        assert_eq!(response.pointers(), pointers, "{query}");
    }
    assert_eq!(
        server.get(&format!("/payment?cursor={cursor}&limit=200&user_id=user_1")).await.status,
        200
    );
}

#[tokio::test]
async fn head_gets_the_headers_of_get_and_other_methods_get_405() {
    let server = TestServer::start().await;
    pay(&server, "k", "user_1").await;
    let (get, head) = (
        server.get("/payment?limit=1").await,
        server.request(Method::HEAD, "/payment?limit=1", &[], "").await,
    );
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert_eq!(get.header("content-length"), head.header("content-length"));
    assert_eq!(server.request(Method::HEAD, "/payment?limit=0", &[], "").await.status, 400);
    let put = server.request(Method::PUT, "/payment", &[], "").await;
    assert_eq!((put.status, put.header("allow")), (405, "GET, HEAD, POST"));
}

#[tokio::test]
async fn a_page_is_shorter_where_its_payments_have_many_refunds() {
    let server = TestServer::start().await;
    for number in 0..12 {
        pay(&server, &format!("k{number}"), "user_1").await;
    }
    server
        .database
        .execute(
            "UPDATE payments SET amount = 100, refunded = 100, refund_count = 100;
             INSERT INTO refunds (refund_id, transaction_id, account_id, amount)
             SELECT gen_random_uuid(), transaction_id, account_id, 1 FROM payments, generate_series(1, 100)",
        )
        .await;
    for query in ["limit=200", "user_id=user_1&limit=200", "limit=11"] {
        let pages = read_all(&server, query, async || {}).await;
        let sizes: Vec<usize> = pages.iter().map(Vec::len).collect();
        assert_eq!(sizes, [10, 2], "a thousand refunds end a page of {query}");
        let all: BTreeSet<&String> = pages.iter().flatten().collect();
        assert_eq!(all.len(), 12, "{query}");
    }
    let page = server.get("/payment?limit=200").await.json();
    assert_eq!(page["payments"][9]["refunds"].as_array().unwrap().len(), 100);
    let sizes: Vec<usize> =
        read_all(&server, "limit=6", async || {}).await.iter().map(Vec::len).collect();
    assert_eq!(sizes, [6, 6]);
}
