//! The idempotency layer as another service would use it: with commands of its own, some of which
//! misbehave.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::future::join_all;
use payonce::idempotency::{
    BatchCommand, BatchEntry, COPIES_FOR_A_KEY, Engine, Error, Event, Failure, Fingerprint,
    IdempotencyKey, Insert, Observer, Operation, Outcome, Response, Settings,
};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, postgres::PgConnectOptions};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{Instant, sleep},
};
use uuid::Uuid;

use crate::support::{
    TestDatabase,
    database::{maintenance, take_lock},
    proxy::{Fault, Proxy, Step},
};

/// What a command does, besides having its effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Succeed,
    Refuse,
    /// Runs this statement in its transaction.
    Run(&'static str),
    Swallow,
    Panic,
    ForgetResponse,
    MalformHeader,
}

struct Effect(Act);

impl BatchCommand for Effect {
    const OPERATION: Operation = Operation::new("effect");

    fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(Self::OPERATION).field("act", format!("{:?}", self.0).as_bytes())
    }

    async fn execute(
        batch: &[BatchEntry<'_, Self>],
        conn: &mut PgConnection,
    ) -> Result<Vec<Response>, Error> {
        let mut responses = Vec::new();
        for BatchEntry { execution, command } in batch {
            sqlx::query("INSERT INTO effects VALUES ($1)")
                .bind(execution.id)
                .execute(&mut *conn)
                .await?;
            let response = Response::new(201, execution.id.to_string());
            match command.0 {
                Act::Succeed => responses.push(response),
                Act::Refuse => responses.push(Response::new(402, "no")),
                Act::Run(sql) => {
                    conn.execute(sql).await?;
                    responses.push(response);
                }
                Act::Swallow => {
                    let _ = conn.execute("SELECT 1 / 0").await;
                    responses.push(response);
                }
                Act::Panic => panic!("a defect, on purpose"),
                Act::ForgetResponse => {}
                Act::MalformHeader => responses.push(response.with_header("a", "b\r\nc: d")),
            }
        }
        Ok(responses)
    }
}

/// A second type of command in the same engine, which comes to one INSERT: this one.
struct Other(&'static str);

/// As it should be.
const INSERT_OTHERS: &str = "INSERT INTO effects SELECT execution_id FROM claimed";

impl BatchCommand for Other {
    const OPERATION: Operation = Operation::new("other");

    fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(Self::OPERATION)
    }

    fn insert(batch: &[BatchEntry<'_, Self>]) -> Result<Option<Insert>, Error> {
        let sql = batch.first().map_or(INSERT_OTHERS, |one| one.command.0);
        assert!(!sql.is_empty(), "a defect, on purpose");
        let responses = batch.iter().map(|_| Response::new(200, "other"));
        Ok(Some(Insert::new(sql).respond(responses.collect())))
    }
}

/// A type with columns of its own, named as the layer's tables name theirs. Its response has this status.
struct Labelled(u16);

impl BatchCommand for Labelled {
    const OPERATION: Operation = Operation::new("label");

    fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(Self::OPERATION)
    }

    fn insert(batch: &[BatchEntry<'_, Self>]) -> Result<Option<Insert>, Error> {
        let statuses = batch.iter().map(|one| i32::from(one.command.0));
        let responses = batch.iter().map(|one| Response::new(one.command.0, "label"));
        let insert = Insert::new(
            "INSERT INTO labels SELECT execution_id, account_id, key, status FROM claimed",
        );
        let insert = insert.column("key", vec!["own"; batch.len()]);
        let insert = insert.column("status", statuses.collect::<Vec<_>>());
        Ok(Some(insert.respond(responses.collect())))
    }
}

/// With so many values for each command.
struct Uneven(usize);

impl BatchCommand for Uneven {
    const OPERATION: Operation = Operation::new("uneven");

    fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(Self::OPERATION)
    }

    fn insert(batch: &[BatchEntry<'_, Self>]) -> Result<Option<Insert>, Error> {
        let values = batch.iter().map(|one| one.command.0).sum();
        let insert =
            Insert::new("INSERT INTO labels SELECT execution_id, account_id, name FROM claimed");
        let responses = batch.iter().map(|_| Response::new(200, "uneven"));
        Ok(Some(insert.column("name", vec!["own"; values]).respond(responses.collect())))
    }
}

/// A type that says nothing of what it does.
struct Idle;

impl BatchCommand for Idle {
    const OPERATION: Operation = Operation::new("idle");

    fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(Self::OPERATION)
    }
}

/// A type that can't even say what it locks.
struct Broken;

impl BatchCommand for Broken {
    const OPERATION: Operation = Operation::new("broken");

    fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(Self::OPERATION)
    }

    fn locks(&self) -> Option<Uuid> {
        panic!("a defect, on purpose")
    }
}

fn key(name: &str) -> IdempotencyKey {
    IdempotencyKey::parse(name.as_bytes()).unwrap()
}

struct Layer {
    engine: Engine,
    database: Arc<TestDatabase>,
}

impl Layer {
    async fn start() -> Self {
        Self::start_with(Settings::default()).await
    }

    async fn start_with(settings: Settings) -> Self {
        let database = Arc::new(TestDatabase::create().await);
        database
            .execute(
                "CREATE TABLE effects (execution_id uuid PRIMARY KEY); CREATE SEQUENCE attempts",
            )
            .await;
        let engine = Engine::start(&database.options, &settings).await.unwrap();
        Self { engine, database }
    }

    async fn submit(&self, name: &str, act: Act) -> Result<Outcome, Failure> {
        self.engine.submit(Uuid::nil(), key(name), Effect(act)).await
    }

    /// Keeps the engine busy, so that what is submitted now shares the next transaction.
    fn busy(&self, milliseconds: u32) -> tokio::task::JoinHandle<()> {
        self.busy_as("busy", milliseconds)
    }

    fn busy_as(&self, name: &str, milliseconds: u32) -> tokio::task::JoinHandle<()> {
        let key = key(name);
        let engine = self.engine.clone();
        let sql: &'static str = format!("SELECT pg_sleep({milliseconds}::float8 / 1000)").leak();
        tokio::spawn(async move {
            engine.submit(Uuid::nil(), key, Effect(Act::Run(sql))).await.unwrap();
        })
    }

    async fn effects(&self) -> i64 {
        self.database.number("SELECT count(*) FROM effects").await
    }
}

fn is_replay(outcome: &Result<Outcome, Failure>) -> bool {
    matches!(outcome, Ok(Outcome::Replay { .. }))
}

fn is_new(outcome: &Result<Outcome, Failure>) -> bool {
    matches!(outcome, Ok(Outcome::New { .. }))
}

#[tokio::test]
async fn a_guilty_command_fails_alone() {
    for guilty in [
        Act::Run("INSERT INTO effects VALUES (NULL)"),
        Act::Run("SELECT 9223372036854775807 + 1"),
        Act::Run("SELECT * FROM nowhere"),
        Act::Swallow,
        Act::Panic,
        Act::ForgetResponse,
        Act::MalformHeader,
    ] {
        let layer = Layer::start().await;
        let busy = layer.busy(100);
        sleep(Duration::from_millis(30)).await;
        let outcomes = join_all((0..20).map(async |number| {
            let act = if number == 7 { guilty } else { Act::Succeed };
            layer.submit(&format!("key-{number}"), act).await
        }))
        .await;
        busy.await.unwrap();
        for (number, outcome) in outcomes.iter().enumerate() {
            if number == 7 {
                assert!(matches!(outcome, Err(Failure::Internal(_))), "{guilty:?}: {outcome:?}");
            } else {
                assert!(is_new(outcome), "{guilty:?}: {outcome:?}");
            }
        }
        assert_eq!(layer.effects().await, 20, "{guilty:?}");
        // Nothing of it was remembered.
        assert_eq!(layer.database.number("SELECT count(*) FROM idempotency_keys").await, 20);
        assert!(is_new(&layer.submit("key-7", Act::Succeed).await));
    }
}

#[tokio::test]
async fn a_defect_in_a_batch_that_is_not_even_sent_costs_the_batch_before_no_answer() {
    let mut layer = Layer::start().await;
    let delay = Duration::from_secs(1);
    let options = slow_to_connect(&layer.database.options, delay).await;
    layer.engine = Engine::start(&options, &Settings::default()).await.unwrap();
    let begun = Instant::now();
    let busy = layer.busy(200);
    sleep(Duration::from_millis(50)).await;
    let submit = |name, command| layer.engine.submit(Uuid::nil(), key(name), Other(command));
    let before = async {
        busy.await.unwrap();
        begun.elapsed()
    };
    let (defect, other, before) = tokio::join!(submit("a", ""), submit("b", INSERT_OTHERS), before);
    assert!(matches!(defect, Err(Failure::Internal(_))), "{defect:?}");
    assert!(is_new(&other), "{other:?}");
    assert!(begun.elapsed() > delay, "the defect cost no connection");
    assert!(before < delay, "answered after {before:?}, when there was a connection again");
    assert!(layer.engine.close(Duration::from_secs(5)).await, "a key is left in the queue");
}

#[tokio::test]
async fn a_defect_before_a_command_is_taken_in_is_its_callers_alone() {
    let layer = Layer::start().await;
    let busy = layer.busy(100);
    sleep(Duration::from_millis(30)).await;
    let engine = layer.engine.clone();
    let broken = tokio::spawn(async move { engine.submit(Uuid::nil(), key("k"), Broken).await });
    let others = join_all(["a", "b"].map(|name| layer.submit(name, Act::Succeed))).await;
    busy.await.unwrap();
    assert!(broken.await.unwrap_err().is_panic());
    assert!(others.iter().all(is_new), "{others:?}");
    assert!(is_new(&layer.submit("k", Act::Succeed).await), "its key is free");
}

#[tokio::test]
async fn an_insert_that_doesnt_insert_a_row_for_each_command_is_not_committed() {
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
            let outcome = layer.engine.submit(Uuid::nil(), key("k"), Other(wrong)).await;
            assert!(matches!(&outcome, Err(Failure::Internal(_))), "{wrong}: {outcome:?}");
            let after = (layer.effects().await, layer.database.number(keys).await);
            assert_eq!(after, before, "{wrong}");
        }
        let right = layer.engine.submit(Uuid::nil(), key("k"), Other(INSERT_OTHERS)).await;
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
            let outcome = layer.engine.submit(Uuid::nil(), key("k"), Uneven(values)).await;
            assert!(matches!(outcome, Err(Failure::Internal(_))), "{outcome:?}");
            assert_eq!(layer.database.number("SELECT count(*) FROM labels").await, 0);
        }
        assert!(is_new(&layer.engine.submit(Uuid::nil(), key("k"), Uneven(1)).await));
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
        let account = Uuid::now_v7();
        let submit = |name: &str, status| layer.engine.submit(account, key(name), Labelled(status));
        // Its key comes before the others'.
        for number in 0..used_before {
            assert!(is_new(&submit(&format!("a-used-{number}"), 201).await));
        }
        for number in 1..used_before {
            assert!(is_replay(&submit(&format!("a-used-{number}"), 201).await));
        }
        let busy = layer.busy(100);
        sleep(Duration::from_millis(30)).await;
        let (done, refused, used) =
            tokio::join!(submit("done", 200), submit("refused", 402), submit("a-used-0", 201));
        busy.await.unwrap();
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

#[tokio::test]
async fn an_error_that_only_the_commit_brings_is_heard() {
    let layer = Layer::start().await;
    layer
        .database
        .execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'too late'; END $$;
             CREATE CONSTRAINT TRIGGER late AFTER INSERT ON effects DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION refuse()",
        )
        .await;
    let inserted = layer.engine.submit(Uuid::nil(), key("o"), Other(INSERT_OTHERS)).await;
    let executed = layer.submit("e", Act::Succeed).await;
    for outcome in [inserted, executed] {
        assert!(
            matches!(&outcome, Err(Failure::Internal(why)) if why.to_string().contains("too late")),
            "{outcome:?}"
        );
    }
    assert_eq!(layer.database.number("SELECT count(*) FROM idempotency_keys").await, 0);
}

#[tokio::test]
async fn a_command_that_does_nothing_at_all_fails() {
    let layer = Layer::start().await;
    let outcome = layer.engine.submit(Uuid::nil(), key("k"), Idle).await;
    assert!(matches!(outcome, Err(Failure::Internal(_))), "{outcome:?}");
}

#[tokio::test]
async fn a_refusal_is_remembered_and_replayed() {
    let layer = Layer::start().await;
    let first = layer.submit("k", Act::Refuse).await;
    assert!(matches!(&first, Ok(Outcome::New { response, .. }) if response.status() == 402));
    let second = layer.submit("k", Act::Refuse).await;
    assert!(matches!(&second, Ok(Outcome::Replay { response, .. }) if response.status() == 402));
    let kept = "SELECT count(*) FROM idempotency_responses WHERE replayable_until IS NULL";
    assert_eq!(layer.database.number(kept).await, 1, "a refusal is kept as long as its key");
}

#[tokio::test]
async fn what_waits_shares_one_transaction_whatever_its_type() {
    let layer = Layer::start().await;
    let busy = layer.busy(200);
    sleep(Duration::from_millis(50)).await;
    let (effects, others) = tokio::join!(
        join_all(
            (0..8).map(async |number| layer.submit(&format!("e-{number}"), Act::Succeed).await)
        ),
        join_all((0..8).map(async |number| {
            layer
                .engine
                .submit(Uuid::nil(), key(&format!("o-{number}")), Other(INSERT_OTHERS))
                .await
        })),
    );
    busy.await.unwrap();
    assert!(effects.iter().chain(&others).all(is_new));
    assert_eq!(layer.database.number("SELECT count(DISTINCT xmin::text) FROM effects").await, 2);
}

#[tokio::test]
async fn what_many_wait_for_is_done_in_two_halves() {
    let layer = Layer::start().await;
    let busy = layer.busy(200);
    sleep(Duration::from_millis(50)).await;
    let effects = join_all(
        (0..40).map(async |number| layer.submit(&format!("e-{number}"), Act::Succeed).await),
    )
    .await;
    busy.await.unwrap();
    assert!(effects.iter().all(is_new));
    // Of 41 keys, with that of the batch before.
    let sizes = "SELECT (SELECT max(size) * 1000 + count(*) FROM (SELECT count(*) AS size FROM effects GROUP BY xmin::text) AS batch)";
    assert_eq!(layer.database.number(sizes).await, 21_003);
}

#[tokio::test]
async fn a_key_of_one_operation_is_reused_by_another() {
    let layer = Layer::start().await;
    assert!(is_new(&layer.submit("k", Act::Succeed).await));
    let reused = layer.engine.submit(Uuid::nil(), key("k"), Other(INSERT_OTHERS)).await;
    assert_eq!(reused, Ok(Outcome::Reused { fields: vec!["operation"] }));
}

#[tokio::test]
async fn keys_of_different_accounts_never_meet() {
    let layer = Layer::start().await;
    for account in 0..3 {
        let outcome =
            layer.engine.submit(Uuid::from_u128(account), key("k"), Effect(Act::Succeed)).await;
        assert!(is_new(&outcome));
    }
    assert_eq!(layer.effects().await, 3);
}

/// Fails with this SQLSTATE the first few times, as counted by a sequence, which no rollback undoes.
fn failing(times: u32, statement: &str) -> Act {
    Act::Run(
        format!("DO $$ BEGIN IF nextval('attempts') <= {times} THEN {statement}; END IF; END $$")
            .leak(),
    )
}

#[tokio::test]
async fn a_transaction_that_met_another_is_run_again() {
    for state in ["40001", "40P01"] {
        let layer = Layer::start().await;
        let act = failing(6, &format!("RAISE SQLSTATE '{state}'"));
        assert!(is_new(&layer.submit("k", act).await), "{state}");
        assert_eq!(
            (layer.effects().await, layer.database.number("SELECT nextval('attempts')").await),
            (1, 8)
        );
    }
}

#[tokio::test]
async fn a_batch_whose_connection_is_lost_is_run_again() {
    let layer = Layer::start().await;
    let act = failing(1, "PERFORM pg_terminate_backend(pg_backend_pid())");
    let busy = layer.busy(100);
    sleep(Duration::from_millis(30)).await;
    let outcomes = join_all((0..20).map(async |number| {
        let act = if number == 7 { act } else { Act::Succeed };
        layer.submit(&format!("key-{number}"), act).await
    }))
    .await;
    busy.await.unwrap();
    assert!(outcomes.iter().all(is_new), "{outcomes:?}");
    assert_eq!(layer.effects().await, 21);
}

#[tokio::test]
async fn transactions_are_read_committed_whatever_the_database_defaults_to() {
    let database = Arc::new(TestDatabase::create().await);
    database
        .execute(
            "CREATE TABLE effects (execution_id uuid PRIMARY KEY);
             CREATE FUNCTION check_level() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 ASSERT current_setting('transaction_isolation') = 'read committed'; RETURN NULL;
             END $$;
             CREATE TRIGGER level AFTER INSERT ON effects EXECUTE FUNCTION check_level()",
        )
        .await;
    database.set("default_transaction_isolation = 'serializable'").await;
    let engine = Engine::start(&database.options, &Settings::default()).await.unwrap();
    let layer = Layer { engine, database };
    assert!(is_new(&layer.submit("executed", Act::Succeed).await));
    let inserted = layer.engine.submit(Uuid::nil(), key("inserted"), Other(INSERT_OTHERS)).await;
    assert!(is_new(&inserted), "{inserted:?}");
}

#[tokio::test]
async fn a_server_that_takes_no_writes_is_waited_for() {
    let layer = Layer::start().await;
    let act = failing(4, "RAISE SQLSTATE '25006'");
    let begun = Instant::now();
    assert!(is_new(&layer.submit("k", act).await));
    assert!(begun.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn a_command_that_kills_its_connection_ends_up_alone() {
    let settings = Settings {
        request_deadline: Duration::from_secs(6),
        in_flight_wait: Duration::from_secs(1),
        ..Settings::default()
    };
    let layer = Layer::start_with(settings).await;
    let busy = layer.busy(100);
    sleep(Duration::from_millis(30)).await;
    let begun = Instant::now();
    let outcomes = join_all((0..50).map(async |number| {
        let kill =
            Act::Run("SELECT nextval('attempts'); SELECT pg_terminate_backend(pg_backend_pid())");
        let outcome = layer
            .submit(&format!("key-{number}"), if number == 7 { kill } else { Act::Succeed })
            .await;
        (number, outcome, begun.elapsed())
    }))
    .await;
    busy.await.unwrap();
    for (number, outcome, took) in outcomes {
        if number == 7 {
            let unserved = [Err(Failure::OutcomeUnknown), Err(Failure::ConnectionLost)];
            assert!(unserved.contains(&outcome), "{outcome:?}");
        } else {
            assert!(
                is_new(&outcome) && took < Duration::from_secs(5),
                "{number}: {outcome:?} after {took:?}"
            );
        }
    }
    assert_eq!(layer.effects().await, 50);
    // Nobody waits for it any more: it isn't tried again.
    sleep(Duration::from_secs(1)).await;
    let attempts = layer.database.number("SELECT last_value FROM attempts").await;
    sleep(Duration::from_millis(1500)).await;
    assert_eq!(layer.database.number("SELECT last_value FROM attempts").await, attempts);
}

#[tokio::test]
async fn a_server_that_has_run_out_of_something_is_overloaded() {
    for (state, failure) in [
        ("53100", Failure::OutOfResources),
        ("53200", Failure::OutOfResources),
        ("57014", Failure::TimedOut),
    ] {
        let layer = Layer::start().await;
        // Once, and once where it holds up nobody.
        let act = failing(2, &format!("RAISE SQLSTATE '{state}'"));
        assert_eq!(layer.submit("k", act).await, Err(failure), "{state}");
        assert!(is_new(&layer.submit("k", act).await), "{state}");
    }
}

#[tokio::test]
async fn a_statement_that_takes_too_long_is_given_up() {
    let settings = Settings {
        request_deadline: Duration::from_secs(2),
        in_flight_wait: Duration::from_secs(1),
        ..Settings::default()
    };
    let layer = Layer::start_with(settings).await;
    assert_eq!(layer.submit("slow", Act::Run("SELECT pg_sleep(60)")).await, Err(Failure::TimedOut));
    assert!(is_new(&layer.submit("next", Act::Succeed).await));
    assert_eq!(layer.effects().await, 1);
}

#[tokio::test]
async fn a_command_whose_caller_left_before_it_began_is_not_executed() {
    let layer = Layer::start().await;
    let busy = layer.busy(200);
    sleep(Duration::from_millis(50)).await;
    let left =
        tokio::time::timeout(Duration::from_millis(20), layer.submit("left", Act::Succeed)).await;
    assert!(left.is_err());
    busy.await.unwrap();
    assert!(is_new(&layer.submit("next", Act::Succeed).await));
    assert_eq!(layer.effects().await, 2);
}

#[tokio::test]
async fn a_follower_leads_when_its_leader_has_left() {
    let layer = Layer::start().await;
    let busy = layer.busy(200);
    sleep(Duration::from_millis(50)).await;
    let leader = tokio::time::timeout(Duration::from_millis(30), layer.submit("k", Act::Succeed));
    let follower = async {
        sleep(Duration::from_millis(10)).await;
        layer.submit("k", Act::Refuse).await
    };
    let (left, outcome) = tokio::join!(leader, follower);
    assert!(left.is_err());
    assert!(matches!(outcome, Ok(Outcome::New { response, .. }) if response.status() == 402));
    busy.await.unwrap();
}

/// What an observer hears of keys in doubt, and of what was executed.
#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Observer for Heard {
    fn observe(&self, event: Event<'_>) {
        let heard = match event {
            Event::InDoubt => "in doubt".to_owned(),
            Event::Settled(resolution) => format!("{resolution:?}"),
            Event::Executed { command, .. } => {
                format!("executed {:?}", command.downcast_ref::<Effect>().unwrap().0)
            }
            _ => return,
        };
        self.0.lock().unwrap().push(heard);
    }
}

/// Panics at each event.
struct Clumsy;

impl Observer for Clumsy {
    fn observe(&self, _: Event<'_>) {
        panic!("an observer is clumsy")
    }
}

#[tokio::test]
async fn an_observer_that_panics_changes_nothing() {
    let mut layer = Layer::start().await;
    let (options, settings) = (&layer.database.options, Settings::default());
    layer.engine = Engine::start_observed(options, &settings, Arc::new(Clumsy)).await.unwrap();
    assert!(is_new(&layer.submit("k", Act::Succeed).await));
    let again = layer.submit("k", Act::Succeed).await;
    assert!(matches!(again, Ok(Outcome::Replay { .. })), "{again:?}");
    assert!(matches!(layer.submit("l", Act::Run("SELECT 1 / 0")).await, Err(Failure::Internal(_))));
    assert!(layer.engine.close(Duration::from_secs(5)).await);
    assert_eq!(layer.effects().await, 1);
}

#[tokio::test]
async fn the_longest_times_that_are_accepted_work() {
    let layer = Layer::start_with(Settings {
        request_deadline: Duration::from_hours(1),
        in_flight_wait: Duration::from_mins(59),
        response_ttl: Some(Duration::from_hours(1000 * 365 * 24)),
        ..Settings::default()
    })
    .await;
    assert!(is_new(&layer.submit("k", Act::Succeed).await));
}

#[tokio::test]
async fn whoever_closes_it_second_hears_the_truth_too() {
    let layer = Layer::start().await;
    let busy = layer.busy(400);
    sleep(Duration::from_millis(100)).await;
    let (first, second) = tokio::join!(
        layer.engine.close(Duration::from_secs(5)),
        layer.engine.close(Duration::from_millis(50)),
    );
    assert_eq!((first, second), (true, false));
    assert!(layer.engine.close(Duration::ZERO).await);
    busy.await.unwrap();
}

#[tokio::test]
async fn what_was_committed_unheard_is_said_to_be_though_its_caller_has_left() {
    const SENT: (Step, Act) = (Step::CommitSent, Act::Refuse);
    const COMMITTED: (Step, Act) = (Step::Committed, Act::Succeed);
    for (leaders, last, heard) in [
        // The last one sends the same as the first, or something else.
        (vec![COMMITTED], Act::Succeed, ["in doubt", "Committed", "executed Succeed"]),
        (vec![COMMITTED], Act::Refuse, ["in doubt", "Committed", "executed Succeed"]),
        (vec![SENT], Act::Succeed, ["in doubt", "NotCommitted", "executed Succeed"]),
        (vec![SENT, COMMITTED], Act::Refuse, ["in doubt", "Committed", "executed Succeed"]),
    ] {
        let mut layer = Layer::start().await;
        let proxy = Proxy::start(&layer.database.options).await;
        let options = proxy.through(&layer.database.options);
        let (settings, observer) = (Settings::default(), Arc::new(Heard::default()));
        let heard_by = Arc::<Heard>::clone(&observer);
        layer.engine = Engine::start_observed(&options, &settings, heard_by).await.unwrap();
        let was_committed = leaders.contains(&COMMITTED);
        let mut others: Vec<_> =
            leaders.iter().map(|(_, act)| Box::pin(layer.submit("k", *act))).collect();
        others.push(Box::pin(layer.submit("k", last)));
        for (step, _) in leaders {
            proxy.arm(step, Fault::Hold);
            // All of them join before the first has come so far, and it leaves then.
            tokio::select! {
                outcome = join_all(&mut others) => panic!("{outcome:?}"),
                () = proxy.reached() => {}
            }
            drop(others.remove(0));
            proxy.cut_all();
        }
        let outcome = others.remove(0).await;
        assert_eq!(*observer.0.lock().unwrap(), heard, "{last:?} {outcome:?}");
        assert_eq!(layer.effects().await, 1);
        match last {
            _ if !was_committed => assert!(is_new(&outcome), "{outcome:?}"),
            Act::Succeed => assert!(is_replay(&outcome), "{outcome:?}"),
            _ => assert!(matches!(outcome, Ok(Outcome::Reused { .. })), "{outcome:?}"),
        }
    }
}

/// How one fails that leads after one in doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Its deadline passes, and its caller stops waiting.
    Elapses,
    /// The same, and the engine is the first to notice.
    IsNoticed,
    /// It can't be executed.
    Fails,
}

#[tokio::test]
async fn who_leads_after_one_in_doubt_never_hears_that_nothing_was_executed() {
    for end in [End::Elapses, End::IsNoticed, End::Fails] {
        let mut layer = Layer::start().await;
        let proxy = Proxy::start(&layer.database.options).await;
        let options = proxy.through(&layer.database.options);
        let settings = Settings {
            request_deadline: Duration::from_millis(1500),
            in_flight_wait: Duration::from_millis(500),
            ..Settings::default()
        };
        layer.engine = Engine::start(&options, &settings).await.unwrap();
        proxy.arm(Step::CommitSent, Fault::Hold);
        let mut leader = Box::pin(layer.submit("k", Act::Succeed));
        let mut follower = Box::pin(layer.submit("k", Act::Run("SELECT 1 / 0")));
        tokio::select! {
            outcome = async { tokio::join!(&mut leader, &mut follower) } => panic!("{outcome:?}"),
            () = proxy.reached() => {}
        }
        drop(leader);
        if end != End::Fails {
            proxy.redirect(&options.clone().port(1)).await;
        }
        proxy.cut_all();
        let begun = Instant::now();
        while end == End::IsNoticed && layer.engine.queued() > 0 {
            assert!(begun.elapsed() < Duration::from_secs(20), "it is never noticed");
            sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(follower.await, Err(Failure::OutcomeUnknown), "{end:?}");
    }
}

#[tokio::test]
async fn a_follower_with_another_request_is_tried_when_its_leader_fails() {
    let layer = Layer::start().await;
    let busy = layer.busy(100);
    sleep(Duration::from_millis(30)).await;
    let guilty = Act::Run("SELECT 1 / 0");
    let (one, two, other) = tokio::join!(
        layer.submit("k", guilty),
        async {
            sleep(Duration::from_millis(5)).await;
            layer.submit("k", guilty).await
        },
        async {
            sleep(Duration::from_millis(10)).await;
            layer.submit("k", Act::Succeed).await
        },
    );
    busy.await.unwrap();
    assert!(
        matches!(one, Err(Failure::Internal(_))) && one == two,
        "the same request fails with it"
    );
    assert!(is_new(&other), "{other:?}");
}

#[tokio::test]
async fn who_reaches_its_deadline_hears_whether_it_had_begun() {
    let settings = Settings {
        max_batch: 1,
        request_deadline: Duration::from_secs(3),
        in_flight_wait: Duration::from_millis(100),
        ..Settings::default()
    };
    let layer = Layer::start_with(settings).await;
    // One after the other, each until a moment of its own, so that a slow machine's delays don't add up:
    // the fifth is under way at its deadline.
    let now: String = layer.database.value("SELECT clock_timestamp()::text").await;
    let submit = async |order: u64, name: &str, until: u32| {
        sleep(Duration::from_millis(10 * order)).await;
        let wait = format!(
            "SET LOCAL statement_timeout = 0;
             SELECT pg_sleep_until('{now}'::timestamptz + interval '{until} milliseconds')"
        );
        layer.submit(name, Act::Run(wait.leak())).await
    };
    let (one, two, three, four, begun, waiting) = tokio::join!(
        submit(0, "1", 600),
        submit(1, "2", 1200),
        submit(2, "3", 1800),
        submit(3, "4", 2400),
        submit(4, "begun", 3250),
        submit(5, "waiting", 3300),
    );
    assert!([one, two, three, four].iter().all(is_new));
    assert_eq!((begun, waiting), (Err(Failure::OutcomeUnknown), Err(Failure::DatabaseUnavailable)));
    // What had begun is committed, and the retry is told; what had not is not.
    assert!(is_replay(&submit(0, "begun", 3250).await));
    assert_eq!(layer.effects().await, 5);
}

/// Options to reach a database through what keeps each new connection waiting for so long.
async fn slow_to_connect(options: &PgConnectOptions, wait: Duration) -> PgConnectOptions {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = format!("{}:{}", options.get_host(), options.get_port());
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let server = server.clone();
            tokio::spawn(async move {
                sleep(wait).await;
                let mut server = TcpStream::connect(server).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    options.clone().host("127.0.0.1").port(port)
}

#[tokio::test]
async fn what_a_caller_was_told_is_not_executed_is_not_when_the_connection_is_back() {
    let settings = Settings {
        request_deadline: Duration::from_millis(500),
        in_flight_wait: Duration::from_millis(100),
        ..Settings::default()
    };
    let mut layer = Layer::start().await;
    // Longer than the deadline, and shorter than what is waited for a connection.
    let options = slow_to_connect(&layer.database.options, Duration::from_millis(800)).await;
    layer.engine = Engine::start(&options, &settings).await.unwrap();
    let lost = failing(1, "PERFORM pg_terminate_backend(pg_backend_pid())");
    assert_eq!(layer.submit("k", lost).await, Err(Failure::DatabaseUnavailable));
    sleep(Duration::from_secs(1)).await;
    assert_eq!(layer.effects().await, 0);
    let (begun, mut again) = (Instant::now(), layer.submit("k", lost).await);
    while again == Err(Failure::DatabaseUnavailable) {
        assert!(begun.elapsed() < Duration::from_secs(20), "there is never a connection");
        again = layer.submit("k", lost).await;
    }
    assert!(is_new(&again), "{again:?}");
    assert_eq!(layer.effects().await, 1);
}

#[tokio::test]
async fn a_full_queue_refuses_at_once() {
    let layer = Layer::start_with(Settings {
        queue_limit: 4,
        account_queue_limit: Some(4),
        ..Settings::default()
    })
    .await;
    let busy = layer.busy(300);
    sleep(Duration::from_millis(50)).await;
    let begun = Instant::now();
    let outcomes = join_all((0..10).map(async |number| {
        let outcome = layer.submit(&format!("key-{number}"), Act::Succeed).await;
        (outcome, begun.elapsed())
    }))
    .await;
    busy.await.unwrap();
    let refused: Vec<_> =
        outcomes.iter().filter(|(outcome, _)| *outcome == Err(Failure::Overloaded)).collect();
    assert_eq!(refused.len(), 7, "one is being executed, three wait");
    assert!(refused.iter().all(|(_, took)| *took < Duration::from_millis(100)), "{refused:?}");
    assert!(is_new(&layer.submit("later", Act::Succeed).await));
}

#[tokio::test]
async fn places_of_callers_who_left_are_free() {
    let layer = Layer::start_with(Settings {
        queue_limit: 4,
        account_queue_limit: Some(4),
        ..Settings::default()
    })
    .await;
    let busy = layer.busy(300);
    sleep(Duration::from_millis(50)).await;
    for round in 0..5 {
        let callers = join_all((0..3).map(|number| {
            let name = format!("{round}-{number}");
            let layer = &layer;
            async move {
                tokio::time::timeout(Duration::from_millis(5), layer.submit(&name, Act::Succeed))
                    .await
            }
        }));
        assert!(callers.await.iter().all(Result::is_err), "all of them waited");
    }
    busy.await.unwrap();
    assert_eq!(layer.effects().await, 1);
}

/// Asserts that an account with a limit of 2 can have exactly its share: no place was lost, and none won.
async fn assert_whole_share(layer: &Layer, name: &str) {
    let busy = layer.busy_as(&format!("busy-{name}"), 250);
    sleep(Duration::from_millis(50)).await;
    let copy = || layer.submit(name, Act::Succeed);
    let (one_more_key, copies) = tokio::join!(
        async {
            sleep(Duration::from_millis(50)).await;
            layer.submit(&format!("{name}-2"), Act::Succeed).await
        },
        join_all((0..10).map(|_| copy())),
    );
    busy.await.unwrap();
    assert_eq!(one_more_key, Err(Failure::ShareExceeded), "{name}");
    let refused = copies.iter().filter(|copy| **copy == Err(Failure::ShareExceeded)).count();
    assert_eq!((copies.len() - refused, refused), (1 + 2 * COPIES_FOR_A_KEY, 1), "{name}");
}

#[tokio::test]
async fn an_account_always_has_its_whole_share() {
    let settings = Settings { account_queue_limit: Some(2), committers: 1, ..Settings::default() };
    let layer = Layer::start_with(settings).await;
    assert_whole_share(&layer, "new").await;

    // Callers who leave: leaders with copies behind them, and copies.
    let busy = layer.busy(300);
    sleep(Duration::from_millis(50)).await;
    for round in 0..5 {
        let name = format!("left-{round}");
        let callers = join_all((0..5).map(|number| {
            let limit = Duration::from_millis([20, 5, 30, 10, 15][number]);
            tokio::time::timeout(limit, layer.submit(&name, Act::Succeed))
        }));
        assert!(callers.await.iter().all(Result::is_err), "all of them waited");
    }
    busy.await.unwrap();
    assert_whole_share(&layer, "left").await;

    // A leader that fails, with copies of it and another request behind it.
    let busy = layer.busy_as("busy-2", 100);
    sleep(Duration::from_millis(30)).await;
    let guilty = || layer.submit("guilty", Act::ForgetResponse);
    let (one, two, other) = tokio::join!(guilty(), guilty(), layer.submit("guilty", Act::Succeed));
    busy.await.unwrap();
    assert!(matches!((&one, &two), (Err(Failure::Internal(_)), Err(Failure::Internal(_)))));
    assert!(is_new(&other));
    assert_whole_share(&layer, "failed").await;

    // Copies of what is answered, while another key of the account waits for another server.
    let mut holder = layer.database.connect().await;
    holder.execute(AssertSqlSafe(format!("BEGIN; {}", take_lock("waits")))).await.unwrap();
    let (waits, ()) = tokio::join!(layer.submit("waits", Act::Succeed), async {
        for round in 0..3 {
            let name = format!("answered-{round}");
            let copies =
                join_all((0..=2 * COPIES_FOR_A_KEY).map(|_| layer.submit(&name, Act::Succeed)));
            assert!(copies.await.iter().all(Result::is_ok), "{name}");
        }
        holder.execute("ROLLBACK").await.unwrap();
    });
    assert!(is_new(&waits));
    assert_whole_share(&layer, "answered").await;

    // A leader whose caller goes while another server executes the key, and a copy that takes its place.
    holder.execute(AssertSqlSafe(format!("BEGIN; {}", take_lock("held")))).await.unwrap();
    let leader = layer.submit("held", Act::Succeed);
    let (leader, copy, ()) = tokio::join!(
        tokio::time::timeout(Duration::from_millis(100), leader),
        layer.submit("held", Act::Succeed),
        async {
            sleep(Duration::from_millis(300)).await;
            holder.execute("ROLLBACK").await.unwrap();
        }
    );
    assert!(leader.is_err() && is_new(&copy), "{copy:?}");
    assert_whole_share(&layer, "taken-over").await;
}

#[tokio::test]
async fn closing_answers_what_was_taken_in_and_takes_nothing_more() {
    let layer = Layer::start().await;
    let busy = layer.busy(200);
    sleep(Duration::from_millis(50)).await;
    let (outcomes, all) = tokio::join!(
        join_all(
            (0..20).map(async |number| layer.submit(&format!("key-{number}"), Act::Succeed).await)
        ),
        async {
            sleep(Duration::from_millis(20)).await;
            layer.engine.close(Duration::from_secs(5)).await
        },
    );
    assert!(all && outcomes.iter().all(is_new), "{outcomes:?}");
    busy.await.unwrap();
    assert_eq!(layer.submit("late", Act::Succeed).await, Err(Failure::Overloaded));
}

#[tokio::test]
async fn closing_waits_for_a_key_that_is_in_flight_elsewhere() {
    let layer = Layer::start().await;
    let mut holder = layer.database.connect().await;
    let claim = format!("BEGIN; {}", take_lock("k"));
    holder.execute(AssertSqlSafe(claim)).await.unwrap();
    let (outcome, all, ()) = tokio::join!(
        layer.submit("k", Act::Succeed),
        async {
            sleep(Duration::from_millis(300)).await;
            layer.engine.close(Duration::from_secs(5)).await
        },
        async {
            sleep(Duration::from_millis(700)).await;
            holder.execute("ROLLBACK").await.unwrap();
        }
    );
    assert!(all && is_new(&outcome), "{outcome:?}");
}

#[tokio::test]
async fn closing_takes_no_longer_than_it_may() {
    let layer = Layer::start().await;
    let stuck = tokio::spawn({
        let engine = layer.engine.clone();
        async move {
            engine.submit(Uuid::nil(), key("stuck"), Effect(Act::Run("SELECT pg_sleep(20)"))).await
        }
    });
    sleep(Duration::from_millis(50)).await;
    let begun = Instant::now();
    assert!(!layer.engine.close(Duration::from_millis(200)).await);
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert_eq!(stuck.await.unwrap(), Err(Failure::OutcomeUnknown));
}

#[tokio::test]
async fn a_fingerprint_that_cannot_be_read_is_a_failure_and_not_another_request() {
    let layer = Layer::start().await;
    assert!(is_new(&layer.submit("k", Act::Succeed).await));
    layer.database.execute("UPDATE idempotency_keys SET fingerprint = '\\x02'").await;
    assert!(matches!(layer.submit("k", Act::Succeed).await, Err(Failure::Internal(_))));
}

#[tokio::test]
async fn a_stored_response_that_cannot_be_read_fails_its_own_request_alone() {
    let layer = Layer::start().await;
    assert!(is_new(&layer.submit("broken", Act::Succeed).await));
    layer.database.execute("UPDATE idempotency_responses SET headers = 'no header'").await;
    let busy = layer.busy(100);
    sleep(Duration::from_millis(30)).await;
    let (broken, fine) =
        tokio::join!(layer.submit("broken", Act::Succeed), layer.submit("fine", Act::Succeed));
    busy.await.unwrap();
    assert!(matches!(broken, Err(Failure::Internal(_))) && is_new(&fine));
}

#[tokio::test]
async fn an_execution_whose_response_was_not_stored_is_not_committed() {
    let layer = Layer::start().await;
    layer
        .database
        .execute(
            "CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
             CREATE TRIGGER lose BEFORE INSERT ON idempotency_responses FOR EACH ROW EXECUTE FUNCTION lose()",
        )
        .await;
    // In a transaction, and in the one statement.
    assert!(matches!(layer.submit("k", Act::Succeed).await, Err(Failure::Internal(_))));
    let other = layer.engine.submit(Uuid::nil(), key("k"), Other(INSERT_OTHERS)).await;
    let sentence = "an incomplete batch was rolled back: 1 commands, 1 keys claimed, 1 rows inserted, 0 responses stored";
    assert!(
        matches!(&other, Err(Failure::Internal(why)) if why.to_string().contains(sentence)),
        "{other:?}"
    );
    assert_eq!(layer.effects().await, 0);
}

#[tokio::test]
async fn a_server_that_says_nothing_is_not_waited_for_for_ever() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = PgConnectOptions::new().host("127.0.0.1");
    let options = options.port(silent.local_addr().unwrap().port());
    let settings = Settings { request_deadline: Duration::from_secs(5), ..Settings::default() };
    let begun = Instant::now();
    let error = Engine::start(&options, &settings).await.map(drop).unwrap_err().to_string();
    assert!(error.contains("didn't answer within 1s"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_server_that_could_not_keep_the_promises_is_refused() {
    let database = TestDatabase::create().await;
    let start = async |settings: Settings| {
        Engine::start(&database.options, &settings)
            .await
            .map(drop)
            .map_err(|error| error.to_string())
    };
    let error = start(Settings { max_batch: 1_000_000, ..Settings::default() }).await.unwrap_err();
    let locks = "current_setting('max_locks_per_transaction')::bigint
                 * (current_setting('max_connections')::bigint
                  + current_setting('max_prepared_transactions')::bigint)";
    let locks = database.value::<i64>(&format!("SELECT {locks}")).await;
    assert!(
        error.contains(&format!("has room for {locks}, half of which is for others"))
            && error.contains("max_locks_per_transaction"),
        "{error}"
    );

    database.set("synchronous_commit = off").await;
    let error = start(Settings::default()).await.unwrap_err();
    assert!(error.contains("synchronous_commit = off"), "{error}");
    assert_eq!(
        start(Settings { allow_asynchronous_commit: true, ..Settings::default() }).await,
        Ok(())
    );

    let mut conn = PgConnection::connect_with(&maintenance()).await.unwrap();
    let name = format!("{}_ascii", database.options.get_database().unwrap());
    let create =
        format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'");
    conn.execute(AssertSqlSafe(create)).await.unwrap();
    let options = database.options.clone().database(&name);
    let error =
        Engine::start(&options, &Settings::default()).await.map(drop).unwrap_err().to_string();
    conn.execute(AssertSqlSafe(format!("DROP DATABASE {name} WITH (FORCE)"))).await.unwrap();
    assert!(error.contains("encoding is SQL_ASCII"), "{error}");
}
