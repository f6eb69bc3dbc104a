//! The one INSERT of a batch.

use std::time::Duration;

use futures_util::future::join3;
use payonce_idempotency::{AccountId, Failure, Outcome, Settings};
use uuid::Uuid;

use crate::{
    commands::{INSERT_OTHERS, Labelled, Other, Uneven},
    engine::{Layer, is_new, is_replay, key},
};

#[tokio::test]
async fn an_insert_that_does_not_insert_one_row_for_each_command_is_not_committed() {
    for key_ttl in [None, Some(Duration::from_hours(24 * 365))] {
        let layer = Layer::start_with(Settings { key_ttl, ..Settings::default() }).await;
        let keys = "SELECT count(*) FROM idempotency_keys";
        let before = (layer.effects().await, layer.database.number(keys).await);
        for wrong in [
            "INSERT INTO effects SELECT execution_id FROM claimed WHERE false",
            "INSERT INTO effects SELECT gen_random_uuid() FROM claimed CROSS JOIN generate_series(1, 2)",
            "INSERT INTO effects SELECT NULL FROM claimed",
            "INSERT INTO nowhere SELECT execution_id FROM claimed",
        ] {
            let outcome = layer.run("k", Other(wrong)).await;
            assert!(matches!(&outcome, Err(Failure::Internal(_))), "{wrong}: {outcome:?}");
            let after = (layer.effects().await, layer.database.number(keys).await);
            assert_eq!(after, before, "{wrong}");
        }
        let right = layer.run("k", Other(INSERT_OTHERS)).await;
        assert!(is_new(&right), "{right:?}");
    }
}

#[tokio::test]
async fn an_insert_that_lacks_values_is_not_committed() {
    for key_ttl in [None, Some(Duration::from_hours(24 * 365))] {
        let layer = Layer::start_with(Settings { key_ttl, ..Settings::default() }).await;
        let table = "CREATE TABLE labels (id uuid PRIMARY KEY, account uuid, key text, status int)";
        layer.database.execute(table).await;
        for values in [0, 2] {
            let outcome = layer.run("k", Uneven(values)).await;
            assert!(matches!(outcome, Err(Failure::Internal(_))), "{outcome:?}");
            assert_eq!(layer.database.number("SELECT count(*) FROM labels").await, 0);
        }
        assert!(is_new(&layer.run("k", Uneven(1)).await));
    }
}

#[tokio::test]
async fn an_insert_has_its_own_columns_however_it_is_run() {
    // In the one statement and in a transaction; after a used key, and after many, which are then looked up first.
    for (key_ttl, used_before) in
        [(None, 0), (None, 1), (Some(Duration::from_hours(24)), 1), (None, 8)]
    {
        let layer = Layer::start_with(Settings { key_ttl, ..Settings::default() }).await;
        let table = "CREATE TABLE labels (id uuid PRIMARY KEY, account uuid, key text, status int)";
        layer.database.execute(table).await;
        let account = AccountId::from(Uuid::now_v7());
        let submit = |name: &str, status| layer.engine.submit(account, key(name), Labelled(status));
        // Its key comes before the others'.
        for number in 0..used_before {
            assert!(is_new(&submit(&format!("a-used-{number}"), 201).await));
        }
        for number in 1..used_before {
            assert!(is_replay(&submit(&format!("a-used-{number}"), 201).await));
        }
        let submitted = join3(submit("done", 200), submit("refused", 402), submit("a-used-0", 201));
        let (done, refused, used) = layer.together(submitted).await;
        assert_eq!(is_replay(&used), used_before > 0, "{used:?}");
        for (outcome, status) in [(done, 200), (refused, 402)] {
            let Ok(Outcome::New { execution_id, replayable_until, .. }) = outcome else {
                panic!("{outcome:?}");
            };
            let what = format!(
                "SELECT count(*) FROM labels JOIN idempotency_responses AS r ON id = execution_id
                 WHERE id = '{execution_id}' AND account = '{account}' AND labels.key = 'own' AND labels.status = {status}
                   AND r.status = {status} AND replayable_until IS NOT DISTINCT FROM {end}",
                end = replayable_until.map_or("NULL".to_owned(), |end| format!("'{end}'")),
            );
            assert_eq!(layer.database.number(&what).await, 1, "{key_ttl:?}, {used_before}: {what}");
            assert_eq!(replayable_until.is_some(), status == 200);
        }
    }
}
