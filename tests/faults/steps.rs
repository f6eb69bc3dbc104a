//! Every fault at every step of every kind of batch.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::future::join_all;
use sqlx::postgres::PgConnectOptions;

use crate::support::{
    PAYMENT, TestDatabase, TestServer,
    binary::Serve,
    client::Response,
    proxy::{Fault, Proxy, Step},
    retry::Clients,
    wait::eventually,
};

/// A frozen batch is abandoned after three tenths of the deadline, which leaves a busy machine time to repeat it.
const FLAGS: [&str; 4] = ["--request-deadline", "8s", "--in-flight-wait", "4s"];

/// The way in which a batch is executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// As one statement, which is its own transaction.
    SingleStatement,
    /// As a transaction of several statements, which keys with a TTL need.
    Transaction,
}

impl Shape {
    fn flags(self) -> Vec<&'static str> {
        let key_ttl = match self {
            Self::SingleStatement => &[][..],
            Self::Transaction => &["--idempotency-key-ttl", "365d"],
        };
        [&FLAGS, key_ttl].concat()
    }

    fn variables(self) -> Vec<(&'static str, &'static str)> {
        let key_ttl = (self == Self::Transaction).then_some(("IDEMPOTENCY_KEY_TTL", "365d"));
        let log = ("RUST_LOG", "info");
        [("REQUEST_DEADLINE", "8s"), log].into_iter().chain(key_ttl).collect()
    }

    /// True if a batch of refunds or voids, which is always a transaction, goes through a step in this shape.
    fn executes(self, step: Step) -> bool {
        self == Self::Transaction && step != Step::Read
    }
}

/// A payment whose amount violates a constraint that the test creates.
const REFUSED: &str = r#"{"user_id": "user_1", "amount": 13}"#;

/// The content of the batch that meets the fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    NewKey,
    Replay,
    ManyKeys,
    OneFails,
}

const CASES: [Case; 4] = [Case::NewKey, Case::Replay, Case::ManyKeys, Case::OneFails];

impl Case {
    /// True if a batch of this kind goes through a step.
    fn reaches(self, step: Step) -> bool {
        match step {
            Step::Read => self == Self::Replay,
            Step::Executed | Step::Stored | Step::Announced => self != Self::Replay,
            _ => true,
        }
    }

    fn keys(self) -> Vec<String> {
        let count = if matches!(self, Self::NewKey | Self::Replay) { 1 } else { 40 };
        (0..count).map(|number| format!("key-{number:02}")).collect()
    }

    /// The key of the command that cannot be executed, if any.
    fn refused(self) -> Option<&'static str> {
        (self == Self::OneFails).then_some("key-17")
    }

    async fn prepare(self, database: &TestDatabase, clients: &Clients) {
        if self == Self::OneFails {
            database
                .execute("ALTER TABLE payments ADD CONSTRAINT unlucky CHECK (amount <> 13)")
                .await;
        }
        if self == Self::Replay {
            assert_eq!(clients.pay("key-00", PAYMENT).await.status, 201);
        }
    }

    /// Sends all requests concurrently, each until its final response. The one that cannot be executed is sent
    /// until its failure is reported.
    async fn send(self, clients: &Clients) -> BTreeMap<String, u16> {
        // Only this request may be told that its outcome is unknown.
        let of_the_refused = Clients::new(&[]);
        let responses = self.keys().into_iter().map(async |key| {
            if self.refused() == Some(key.as_str()) {
                let status = eventually("the refused key is answered", async || {
                    let server = clients.servers.lock().unwrap()[0];
                    let response = of_the_refused.send(server, &key, REFUSED).await?;
                    (response.status != 503).then_some(response.status)
                })
                .await;
                return (key, status);
            }
            let response = clients.pay(&key, PAYMENT).await;
            (key, response.status)
        });
        join_all(responses).await.into_iter().collect()
    }

    /// Asserts that there is one payment for each key, which its replay shows.
    async fn assert_once(self, database: &TestDatabase, clients: &Clients) {
        clients.assert_consistent();
        let keys: Vec<String> =
            self.keys().into_iter().filter(|key| self.refused() != Some(key.as_str())).collect();
        for key in &keys {
            assert_eq!(clients.pay(key, PAYMENT).await.status, 200, "{key}: a replay");
        }
        clients.assert_consistent();
        let expected = i64::try_from(keys.len()).unwrap();
        assert_eq!(database.payments().await, expected);
        let whole =
            "SELECT count(*) FROM idempotency_keys JOIN idempotency_responses USING (execution_id)
                     JOIN payments ON transaction_id = execution_id";
        assert_eq!(database.number(whole).await, expected);
        assert_eq!(database.number("SELECT count(*) FROM idempotency_keys").await, expected);
        assert_announced_once(database, "payments", "transaction_id").await;
    }
}

/// Asserts that each of these is announced or has its place in the feed, and exactly once.
async fn assert_announced_once(database: &TestDatabase, table: &str, id: &str) {
    let wrong = format!(
        "SELECT count(*) FROM {table}
         WHERE (SELECT count(*)
                FROM (SELECT unnest(execution_ids) AS id FROM announcements
                      UNION ALL SELECT unnest(subjects) FROM event_runs) AS event
                WHERE event.id = {id}) <> 1"
    );
    assert_eq!(database.number(&wrong).await, 0, "{table} that are not announced once");
}

/// A fault of the connection, which the server repairs without any client noticing.
async fn connection_fault(shape: Shape, step: Step, fault: Fault, case: Case) {
    let database = Arc::new(TestDatabase::create().await);
    let proxy = Proxy::start(&database.options).await;
    let server =
        TestServer::start_through(&database, &proxy.through(&database.options), &shape.flags())
            .await;
    let clients = Clients::new(&[server.address]);
    case.prepare(&database, &clients).await;

    proxy.arm(step, fault);
    let (statuses, ()) = tokio::join!(case.send(&clients), proxy.reached());
    for (key, status) in statuses {
        let expected = match case {
            Case::Replay => 200,
            _ if case.refused() == Some(key.as_str()) => 500,
            _ => 201,
        };
        assert_eq!(status, expected, "{step:?} {fault:?} {case:?}: {key}");
    }
    let failures = clients.failures();
    assert!(failures.is_empty(), "{step:?} {fault:?} {case:?}: {failures:?}");
    case.assert_once(&database, &clients).await;
}

/// The payment that is refunded: it suffices for half of the refunds.
const REFUNDED: &str = r#"{"user_id": "user_1", "amount": 20}"#;
const REFUNDS: usize = 40;

/// Sends concurrent refunds of one minor unit, and returns how many were created and refused.
async fn refund_all(clients: &Clients, payment: &str) -> (usize, usize) {
    let responses = join_all((0..REFUNDS).map(async |number| {
        clients.refund(payment, &format!("refund-{number}"), r#"{"amount": 1}"#).await.status
    }))
    .await;
    let count = |wanted: &[u16]| responses.iter().filter(|status| wanted.contains(*status)).count();
    (count(&[200, 201]), count(&[402]))
}

/// Asserts that exactly the paid amount was refunded, and that each refund replays its response.
async fn assert_refunded_once(database: &TestDatabase, clients: &Clients, payment: &str) {
    assert_eq!(refund_all(clients, payment).await, (20, 20));
    clients.assert_consistent();
    let made = "SELECT count(*) FROM refunds JOIN idempotency_keys ON execution_id = refund_id";
    assert_eq!(database.number(made).await, 20);
    assert_eq!(database.number("SELECT count(*) FROM refunds").await, 20);
    let kept = "SELECT count(*) FROM idempotency_responses WHERE status = 402";
    assert_eq!(database.number(kept).await, 20);
    let agreed = "SELECT count(*) FROM payments WHERE refunded = 20 AND refund_count = 20";
    assert_eq!(database.number(agreed).await, 1);
    assert_announced_once(database, "refunds", "refund_id").await;
}

/// A fault of the connection while one payment gets many refunds.
async fn connection_fault_in_refunds(step: Step, fault: Fault) {
    let database = Arc::new(TestDatabase::create().await);
    let proxy = Proxy::start(&database.options).await;
    let server = TestServer::start_through(
        &database,
        &proxy.through(&database.options),
        &Shape::Transaction.flags(),
    )
    .await;
    let clients = Clients::new(&[server.address]);
    let payment = clients.pay("paid", REFUNDED).await.field("transaction_id");

    proxy.arm(step, fault);
    let (responses, ()) = tokio::join!(refund_all(&clients, &payment), proxy.reached());
    assert_eq!(responses, (20, 20), "{step:?} {fault:?}");
    assert!(clients.failures().is_empty(), "{step:?} {fault:?}: {:?}", clients.failures());
    assert_refunded_once(&database, &clients, &payment).await;
}

/// The server is killed while one payment gets many refunds, and restarted.
async fn server_killed_in_refunds(step: Step) {
    let database = Arc::new(TestDatabase::create().await);
    let proxy = Proxy::start(&database.options).await;
    let options = proxy.through(&database.options);
    let clients = Clients::new(&[]);
    let mut server = start(Shape::Transaction, &options, &clients);
    let payment = clients.pay("paid", REFUNDED).await.field("transaction_id");
    proxy.arm(step, Fault::Hold);
    let kill = kill_when_reached(Shape::Transaction, &proxy, &options, &mut server, &clients);
    assert_eq!(tokio::join!(refund_all(&clients, &payment), kill).0, (20, 20), "{step:?}");
    assert_refunded_once(&database, &clients, &payment).await;
}

/// The requests of a batch with voids: all keys are voided, or some are voided, some pay, and some do both
/// concurrently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Voids {
    Alone,
    WithPayments,
}

const VOIDS: [Voids; 2] = [Voids::Alone, Voids::WithPayments];

impl Voids {
    /// True if a batch of this kind goes through a step.
    fn reaches(self, step: Step) -> bool {
        let with_payments = self == Self::WithPayments;
        step != Step::Read && (with_payments || !matches!(step, Step::Executed | Step::Announced))
    }

    /// Sends requests with 40 keys concurrently, and returns the responses to each key's payment and void.
    async fn send(self, clients: &Clients) -> Vec<(String, Option<Response>, Option<Response>)> {
        join_all((0..40).map(async |number| {
            let key = format!("key-{number:02}");
            let pays = self == Self::WithPayments && number % 4 != 0;
            let voids = self == Self::Alone || number % 4 != 1;
            let pay = async { if pays { Some(clients.pay(&key, PAYMENT).await) } else { None } };
            let void = async { if voids { Some(clients.void(&key).await) } else { None } };
            // Neither is always the first.
            let (pay, void) = if number % 4 == 2 {
                tokio::join!(pay, void)
            } else {
                let (void, pay) = tokio::join!(void, pay);
                (pay, void)
            };
            (key, pay, void)
        }))
        .await
    }

    /// Asserts that each key is either executed or voided, as the response to its void says.
    async fn assert_one_of_two(
        self,
        database: &TestDatabase,
        clients: &Clients,
        responses: &[(String, Option<Response>, Option<Response>)],
    ) {
        let (mut executed, mut voided) = (0, 0);
        for (key, pay, void) in responses {
            if let Some(pay) = pay {
                assert!(matches!(pay.status, 200 | 201 | 410), "{key}: {pay:?}");
            }
            let state = clients.void(key).await;
            if let Some(void) = void {
                assert_eq!((void.status, &void.body), (200, &state.body), "{key}");
            }
            match state.field("state").as_str() {
                "voided" => {
                    voided += 1;
                    let late = clients.pay(key, PAYMENT).await;
                    late.assert_problem(410, "idempotency-key-voided");
                    assert!(pay.as_ref().is_none_or(|pay| pay.status == 410), "{key}: {pay:?}");
                }
                state_said => {
                    executed += 1;
                    assert_eq!(state_said, "completed", "{key}");
                    let pay = pay.as_ref().expect("nobody else executes it");
                    assert!(pay.status < 202, "{key}: {pay:?}");
                    let id = pay.field("transaction_id");
                    assert_eq!(id, state.field("execution_id"), "{key}");
                }
            }
        }
        clients.assert_consistent();
        assert_eq!(database.payments().await, executed);
        let keys = |operation: &str| {
            format!("SELECT count(*) FROM idempotency_keys JOIN idempotency_responses USING (execution_id)
                     WHERE operation = '{operation}'")
        };
        assert_eq!(database.number(&keys("pay")).await, executed);
        assert_eq!(database.number(&keys("void")).await, voided);
        assert_eq!(executed == 0, self == Self::Alone);
        assert!(voided >= 10, "{voided}");
    }
}

/// A fault of the connection while keys are voided.
async fn connection_fault_in_voids(step: Step, fault: Fault, voids: Voids) {
    let database = Arc::new(TestDatabase::create().await);
    let proxy = Proxy::start(&database.options).await;
    let server = TestServer::start_through(
        &database,
        &proxy.through(&database.options),
        &Shape::Transaction.flags(),
    )
    .await;
    let clients = Clients::new(&[server.address]);
    proxy.arm(step, fault);
    let (responses, ()) = tokio::join!(voids.send(&clients), proxy.reached());
    let failures = clients.failures();
    let only_voided = failures.keys().all(|status| *status == 410);
    assert!(only_voided, "{step:?} {fault:?} {voids:?}: {failures:?}");
    voids.assert_one_of_two(&database, &clients, &responses).await;
}

/// The server is killed while keys are voided, and restarted.
async fn server_killed_in_voids(step: Step, voids: Voids) {
    let database = Arc::new(TestDatabase::create().await);
    let proxy = Proxy::start(&database.options).await;
    let options = proxy.through(&database.options);
    let clients = Clients::new(&[]);
    let mut server = start(Shape::Transaction, &options, &clients);
    proxy.arm(step, Fault::Hold);
    let kill = kill_when_reached(Shape::Transaction, &proxy, &options, &mut server, &clients);
    let (responses, ()) = tokio::join!(voids.send(&clients), kill);
    voids.assert_one_of_two(&database, &clients, &responses).await;
}

/// Runs all cases concurrently, each on threads of its own. Dropping a database blocks a thread until sessions that
/// are connecting have finished, so these must not need the same thread.
fn every_case(shape: Shape, step: Step, fault: Fault) {
    std::thread::scope(|scope| {
        for case in CASES.into_iter().filter(|case| case.reaches(step)) {
            scope.spawn(move || block_on(connection_fault(shape, step, fault, case)));
        }
        if shape.executes(step) {
            scope.spawn(move || block_on(connection_fault_in_refunds(step, fault)));
            for voids in VOIDS.into_iter().filter(|voids| voids.reaches(step)) {
                scope.spawn(move || block_on(connection_fault_in_voids(step, fault, voids)));
            }
        }
    });
}

fn block_on(test: impl Future<Output = ()>) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.unwrap().block_on(test);
}

/// The server is killed at a step, and restarted.
async fn server_killed(shape: Shape, step: Step, case: Case) {
    let database = Arc::new(TestDatabase::create().await);
    let proxy = Proxy::start(&database.options).await;
    let options = proxy.through(&database.options);
    let clients = Clients::new(&[]);
    let mut server = start(shape, &options, &clients);
    case.prepare(&database, &clients).await;

    proxy.arm(step, Fault::Hold);
    let kill = kill_when_reached(shape, &proxy, &options, &mut server, &clients);
    let (statuses, ()) = tokio::join!(case.send(&clients), kill);
    for (key, status) in statuses {
        let refused = case.refused() == Some(key.as_str());
        assert!(
            if refused { status == 500 } else { status < 202 },
            "{step:?} {case:?}: {key}: {status}"
        );
    }
    case.assert_once(&database, &clients).await;
}

/// Kills the server at the held step, and restarts it.
async fn kill_when_reached(
    shape: Shape,
    proxy: &Proxy,
    options: &PgConnectOptions,
    server: &mut Serve,
    clients: &Clients,
) {
    proxy.reached().await;
    server.signal("KILL");
    server.wait();
    proxy.cut_all();
    proxy.let_go();
    *server = start(shape, options, clients);
}

/// Starts the server to which these clients send from now on.
fn start(shape: Shape, options: &PgConnectOptions, clients: &Clients) -> Serve {
    let server = Serve::start(options, &shape.variables());
    *clients.servers.lock().unwrap() = vec![server.address];
    server
}

/// `frozen` is left out for a step at which PostgreSQL needs TCP keepalives to find out about the freeze: the
/// proxy's end of the connection would answer them.
macro_rules! at_every_step {
    ($($name:ident: $shape:ident $step:ident $($frozen:ident)?,)*) => {$(
        mod $name {
            use super::*;

            #[test]
            fn cut() {
                every_case(Shape::$shape, Step::$step, Fault::Cut);
            }

            #[test]
            fn delayed() {
                every_case(Shape::$shape, Step::$step, Fault::Delay(Duration::from_millis(150)));
            }

            $(
                #[test]
                fn $frozen() {
                    every_case(Shape::$shape, Step::$step, Fault::Freeze);
                }
            )?

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn killed() {
                for case in CASES.into_iter().filter(|case| case.reaches(Step::$step)) {
                    server_killed(Shape::$shape, Step::$step, case).await;
                }
                if Shape::$shape.executes(Step::$step) {
                    server_killed_in_refunds(Step::$step).await;
                    for voids in VOIDS.into_iter().filter(|voids| voids.reaches(Step::$step)) {
                        server_killed_in_voids(Step::$step, voids).await;
                    }
                }
            }
        }
    )*};
}

at_every_step! {
    statement_sent_and_not_delivered: SingleStatement StatementSent frozen,
    statement_executed_and_not_committed: SingleStatement StatementExecuted,
    statement_committed_and_not_acknowledged: SingleStatement StatementCommitted frozen,
    statement_after_reading_used_keys: SingleStatement Read frozen,
    statement_acknowledged_and_not_answered: SingleStatement Acknowledged frozen,
    before_begin: Transaction Begin frozen,
    after_begin: Transaction Begun,
    after_the_claim: Transaction Claimed frozen,
    after_reading_used_keys: Transaction Read frozen,
    after_executing: Transaction Executed frozen,
    after_storing: Transaction Stored frozen,
    after_announcing: Transaction Announced frozen,
    commit_sent_and_not_delivered: Transaction CommitSent frozen,
    committed_and_not_acknowledged: Transaction Committed frozen,
    acknowledged_and_not_answered: Transaction Acknowledged frozen,
}

#[test]
fn every_step_has_tests() {
    let source = include_str!("steps.rs");
    for step in Step::ALL {
        let tested = [" frozen,\n", ",\n"].map(|end| source.contains(&format!(" {step:?}{end}")));
        assert_ne!(tested, [false; 2], "{step:?}");
    }
}
