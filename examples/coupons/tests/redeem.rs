//! The service, as a program on a database of its own.

#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::process::Command;

use payonce_testing::{
    TestDatabase,
    binary::{Serve, url},
};

struct Heard {
    status: u16,
    replayed: String,
    body: String,
}

async fn redeem(serve: &Serve, code: &str, key: &str) -> Heard {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let response = client
        .post(format!("http://{}/coupon/{code}/redemption", serve.address))
        .header("content-type", "application/json")
        .header("idempotency-key", key)
        .body(r#"{"customer": "ada"}"#)
        .send()
        .await
        .unwrap();
    let replayed = response.headers().get("idempotent-replayed");
    Heard {
        status: response.status().as_u16(),
        replayed: replayed.map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default(),
        body: response.text().await.unwrap(),
    }
}

#[tokio::test]
async fn a_request_that_is_sent_twice_redeems_the_coupon_once() {
    let database = TestDatabase::create_empty().await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_coupons"));
    command.env("DATABASE_URL", url(&database.options)).env("PORT", "0");
    let serve = Serve::spawn(&mut command);

    let first = redeem(&serve, "WELCOME", "a").await;
    assert_eq!((first.status, first.replayed.as_str()), (201, "false"), "{}", first.body);
    let second = redeem(&serve, "WELCOME", "a").await;
    assert_eq!((second.status, second.replayed.as_str()), (201, "true"));
    assert_eq!(second.body, first.body);
    let left = "SELECT remaining FROM coupons WHERE code = 'WELCOME'";
    assert_eq!(database.number(left).await, 99);
    assert_eq!(database.number("SELECT count(*) FROM redemptions").await, 1);

    assert_eq!(redeem(&serve, "LAST-ONE", "a").await.status, 422, "another request");
    assert_eq!(redeem(&serve, "LAST-ONE", "b").await.status, 201);
    for replayed in ["false", "true"] {
        let refused = redeem(&serve, "LAST-ONE", "c").await;
        assert_eq!((refused.status, refused.replayed.as_str()), (402, replayed));
    }
    assert_eq!(redeem(&serve, "WELCOME", "").await.status, 400);
}
