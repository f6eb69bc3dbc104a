//! Announcements: the executions of a transaction, for a reader that passes them on.

use std::time::Duration;

use futures_util::future::{join, join_all};
use payonce_idempotency::{
    AccountId, Announced, Command, Error, EventCode, Execution, Failure, Fingerprint, Operation,
    Response, Settings, announce,
};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::{
    commands::{Act, INSERT_OTHERS, Labelled, Other},
    engine::{Layer, is_new, is_replay, key},
};

/// Each announced execution.
const ANNOUNCED: &str = "SELECT announcements.id, xid, execution_id,
        account_ids[CASE WHEN cardinality(account_ids) = 1 THEN 1 ELSE place END] AS account_id,
        types[CASE WHEN cardinality(types) = 1 THEN 1 ELSE place END] AS type
    FROM announcements CROSS JOIN LATERAL unnest(execution_ids) WITH ORDINALITY AS e(execution_id, place)";

/// The shapes of a batch: one statement, one transaction, and a transaction for each command.
fn shapes() -> [Settings; 4] {
    let announcing = Settings { announce: true, ..Settings::default() };
    let key_ttl = Some(Duration::from_hours(24 * 365));
    [
        announcing.clone(),
        Settings { key_ttl, ..announcing.clone() },
        Settings { max_batch: 1, committers: 8, ..announcing.clone() },
        Settings { max_batch: 1, committers: 8, key_ttl, ..announcing },
    ]
}

/// With a table for [`Labelled`].
async fn start(settings: &Settings) -> Layer {
    let layer = Layer::start_with(settings.clone()).await;
    let table = "CREATE TABLE labels (id uuid PRIMARY KEY, account uuid, key text, status int)";
    layer.database.execute(table).await;
    layer
}

#[tokio::test]
async fn executions_with_success_are_announced_once_in_their_transaction_and_nothing_else_is() {
    for settings in shapes() {
        let layer = start(&settings).await;
        let label = async |number: u128, name: String, status| {
            let account = Uuid::from_u128(number % 3).into();
            layer.engine.submit(account, key(&name), Labelled(status)).await
        };
        assert!(is_new(&label(0, "used".to_owned(), 201).await));
        let labels = join_all((0..20).map(|number| label(number, format!("l-{number}"), 201)));
        let refusals = join_all((0..3).map(|number| label(number, format!("r-{number}"), 402)));
        let effects = join_all(
            (0..3).map(async |number| layer.submit(&format!("e-{number}"), Act::Succeed).await),
        );
        let quiet = join(layer.run("o", Other(INSERT_OTHERS)), layer.submit("no", Act::Refuse));
        let replay = label(0, "used".to_owned(), 201);
        let void = layer.engine.void(AccountId::DEFAULT, key("void"));
        let submitted = async { tokio::join!(labels, refusals, effects, quiet, replay, void) };
        let (labels, refusals, effects, quiet, replay, void) = layer.together(submitted).await;
        assert!(labels.iter().chain(&refusals).chain(&effects).all(is_new));
        assert!([quiet.0, quiet.1, void].iter().all(is_new) && is_replay(&replay));

        let wrong = format!(
            "SELECT count(*)
             FROM (SELECT id, account, 2 AS type, xmin FROM labels WHERE status = 201
                   UNION ALL
                   SELECT execution_id, k.account_id, 1, e.xmin FROM effects AS e
                   JOIN idempotency_keys AS k USING (execution_id)
                   JOIN idempotency_responses AS r USING (execution_id)
                   WHERE operation = 'effect' AND r.status = 201) AS made
             FULL JOIN ({ANNOUNCED}) AS announced
                 ON execution_id = made.id AND account_id = account AND announced.type = made.type
                AND xid::xid = xmin
             WHERE execution_id IS NULL OR made.id IS NULL"
        );
        assert_eq!(layer.database.number(&wrong).await, 0, "{settings:?}");
        let all = format!("SELECT count(*) FROM ({ANNOUNCED}) AS announced");
        // With the held effect of `together`, and the used label.
        assert_eq!(layer.database.number(&all).await, 20 + 3 + 1 + 1, "{settings:?}");
        let twice = "SELECT count(*) - count(DISTINCT xid::text) FROM announcements";
        assert_eq!(layer.database.number(twice).await, 0, "a transaction has one row");
    }
}

#[tokio::test]
async fn a_batch_of_one_account_and_type_stores_both_once() {
    for settings in &shapes()[..2] {
        let layer = start(settings).await;
        let label = async |account, name: String| {
            layer.engine.submit(Uuid::from_u128(account).into(), key(&name), Labelled(201)).await
        };
        layer.together(join_all((0..9).map(|number| label(7, format!("a-{number}"))))).await;
        layer.together(join_all((0..9).map(|number| label(number, format!("b-{number}"))))).await;
        for (account_ids, rows) in [(1, 1), (9, 1)] {
            let stored = format!(
                "SELECT count(*) FROM announcements
                 WHERE cardinality(execution_ids) = 9 AND cardinality(types) = 1
                   AND cardinality(account_ids) = {account_ids}"
            );
            assert_eq!(layer.database.number(&stored).await, rows, "{settings:?} {account_ids}");
        }
    }
}

#[tokio::test]
async fn nothing_is_announced_unless_the_setting_says_so() {
    let layer = start(&Settings::default()).await;
    layer.database.execute("DROP TABLE announcements").await;
    assert!(is_new(&layer.run("label", Labelled(201)).await));
    assert!(is_new(&layer.submit("effect", Act::Succeed).await));
}

#[tokio::test]
async fn a_batch_whose_announcement_a_trigger_drops_is_rolled_back() {
    for settings in shapes() {
        let layer = start(&settings).await;
        let drop = "CREATE FUNCTION drop_row() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
                    CREATE TRIGGER dropping BEFORE INSERT ON announcements FOR EACH ROW EXECUTE FUNCTION drop_row()";
        layer.database.execute(drop).await;
        for outcome in
            [layer.run("label", Labelled(201)).await, layer.submit("effect", Act::Succeed).await]
        {
            assert!(matches!(outcome, Err(Failure::Internal(_))), "{outcome:?}");
        }
        let rows = "SELECT (SELECT count(*) FROM idempotency_keys) + (SELECT count(*) FROM labels)
                         + (SELECT count(*) FROM effects) + (SELECT count(*) FROM idempotency_responses)";
        assert_eq!(layer.database.number(rows).await, 0, "{settings:?}");
        assert!(is_new(&layer.run("refused", Labelled(402)).await), "it has no announcement");
        layer.database.execute("DROP TRIGGER dropping ON announcements").await;
        assert!(is_new(&layer.run("label", Labelled(201)).await));
    }
}

/// Takes the next number of the one row, whose lock decides the order.
struct Count;

impl Command for Count {
    const OPERATION: Operation = Operation::new("count");
    const EVENT: Option<EventCode> = Some(EventCode::new(3));

    fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(Self::OPERATION)
    }

    async fn execute(
        &self,
        execution: Execution,
        conn: &mut PgConnection,
    ) -> Result<Response, Error> {
        sqlx::query(
            "WITH next AS (UPDATE counter SET number = number + 1 RETURNING number)
             INSERT INTO counted SELECT $1, number FROM next",
        )
        .bind(execution.id)
        .execute(conn)
        .await?;
        Ok(Response::new(201, ""))
    }
}

#[tokio::test]
async fn by_id_announcements_are_in_the_order_in_which_a_row_was_changed() {
    let (request_deadline, in_flight_wait) = (Duration::from_mins(2), Duration::from_mins(1));
    let settings = Settings {
        announce: true,
        max_batch: 1,
        committers: 8,
        request_deadline,
        in_flight_wait,
        ..Settings::default()
    };
    let layer = Layer::start_with(settings).await;
    let tables = "CREATE TABLE counter AS SELECT 0 AS number;
                  CREATE TABLE counted (execution_id uuid PRIMARY KEY, number int UNIQUE)";
    layer.database.execute(tables).await;
    let counts = (0..200).map(async |number| layer.run(&format!("c-{number}"), Count).await);
    assert!(join_all(counts).await.iter().all(is_new));
    let inverted = format!(
        "SELECT count(*)
         FROM (SELECT number, row_number() OVER (ORDER BY id) AS place
               FROM ({ANNOUNCED}) AS announced JOIN counted USING (execution_id)) AS ordered
         WHERE number <> place"
    );
    assert_eq!(layer.database.number(&inverted).await, 0);
}

#[tokio::test]
async fn a_transaction_of_the_applications_own_announces_in_the_same_table() {
    let layer = Layer::start().await;
    let mut conn = layer.database.connect().await;
    let announced = |account, execution, code| Announced {
        account_id: Uuid::from_u128(account).into(),
        execution_id: Uuid::from_u128(execution),
        event: EventCode::new(code),
    };
    announce(&mut conn, &[]).await.unwrap();
    announce(&mut conn, &[announced(1, 10, 5), announced(1, 11, 5)]).await.unwrap();
    announce(&mut conn, &[announced(1, 12, 5), announced(2, 13, 6)]).await.unwrap();
    conn.close().await.unwrap();
    let stored = "SELECT string_agg(format('%s %s %s', right(account_ids::text, 37), execution_ids, types), E'\n' ORDER BY id)
                  FROM announcements";
    let id = |number: u128| Uuid::from_u128(number);
    let stored = layer.database.value::<String>(stored).await;
    let mut rows = stored.lines();
    let first = rows.next().unwrap();
    assert!(first.ends_with(&format!("{{{},{}}} {{5}}", id(10), id(11))), "{first}");
    let second = rows.next().unwrap();
    assert!(second.ends_with(&format!("{{{},{}}} {{5,6}}", id(12), id(13))), "{second}");
    assert_eq!(rows.next(), None);

    let drop = "CREATE RULE dropped AS ON INSERT TO announcements DO INSTEAD NOTHING";
    layer.database.execute(drop).await;
    let mut conn = layer.database.connect().await;
    assert!(announce(&mut conn, &[announced(1, 14, 5)]).await.is_err());
}
