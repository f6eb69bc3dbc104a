//! Servers replaced one by one under load, by processes of the same program: no client notices.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{task::JoinSet, time::sleep};

use crate::support::{PAYMENT, TestDatabase, binary::Serve, client::Wire, wait::until};

const SECOND: Duration = Duration::from_secs(1);

/// What a load balancer does: it asks its servers whether they are ready, again and again, and opens
/// connections to those that were. A connection is used until its server closes it with an answer, or
/// for some requests.
struct Balancer {
    servers: Mutex<[SocketAddr; 2]>,
    ready: Mutex<BTreeSet<SocketAddr>>,
    answers: Mutex<BTreeMap<SocketAddr, u32>>,
    stopped: AtomicBool,
}

impl Balancer {
    fn start(servers: [SocketAddr; 2]) -> Arc<Self> {
        let balancer = Arc::new(Self {
            servers: Mutex::new(servers),
            ready: Mutex::new(servers.into()),
            answers: Mutex::default(),
            stopped: AtomicBool::new(false),
        });
        tokio::spawn({
            let balancer = Arc::clone(&balancer);
            async move {
                while !balancer.is_stopped() {
                    let servers = *balancer.servers.lock().unwrap();
                    let mut ready = BTreeSet::new();
                    for server in servers {
                        ready.extend(is_ready(server).await.then_some(server));
                    }
                    *balancer.ready.lock().unwrap() = ready;
                    sleep(SECOND / 50).await;
                }
            }
        });
        balancer
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// A new connection, to any server that is ready.
    async fn connect(&self) -> (SocketAddr, Wire) {
        let server = {
            let ready = self.ready.lock().unwrap();
            *ready.iter().nth(fastrand::usize(..ready.len())).unwrap()
        };
        (server, Wire::connect(server).await)
    }

    /// Waits until this server has answered some payments.
    async fn takes_part(&self, server: SocketAddr) {
        let asked = async || {
            self.answers.lock().unwrap().get(&server).is_some_and(|answers| *answers >= 20)
        };
        until("the server has answered some payments", asked).await;
    }
}

async fn is_ready(server: SocketAddr) -> bool {
    let asking = async {
        // One that has ended refuses the connection.
        tokio::net::TcpStream::connect(server).await.ok()?;
        let mut wire = Wire::connect(server).await;
        wire.send("GET /health/ready HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        wire.answer().await.filter(|(head, _)| head.starts_with("http/1.1 200"))
    };
    asking.await.is_some()
}

/// Pays until it is told to stop, each payment with one request, and every tenth a second time: how many
/// payments. Anything but the answer that it must be is a failure.
async fn pay(balancer: Arc<Balancer>, client: usize) -> i64 {
    let mut connection = None;
    let mut payments = 0;
    while !balancer.is_stopped() {
        let copies = if payments % 10 == 0 { 2 } else { 1 };
        for status in [201, 200].into_iter().take(copies) {
            let (server, mut wire) = match connection.take() {
                Some(kept) => kept,
                None => balancer.connect().await,
            };
            let head = format!(
                "Content-Type: application/json\r\nIdempotency-Key: key-{client}-{payments}\r\n"
            );
            wire.send_payment(&head, PAYMENT).await;
            let (head, body) = wire.answer().await.expect("every request is answered");
            assert!(head.starts_with(&format!("http/1.1 {status}")), "{head}{body}");
            *balancer.answers.lock().unwrap().entry(server).or_default() += 1;
            // Now and then it takes a new one of itself, or a new server would get none.
            if !head.contains("connection: close") && fastrand::u8(..20) > 0 {
                connection = Some((server, wire));
            }
            // Idle for a moment, as connections of a balancer are.
            sleep(Duration::from_millis(fastrand::u64(..20))).await;
        }
        payments += 1;
    }
    payments
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_are_replaced_one_by_one_and_not_one_request_fails() {
    let database = TestDatabase::create().await;
    let start = || Serve::start(&database.options, &[("SHUTDOWN_DELAY", "2s")]);
    let mut servers = [start(), start()];
    let balancer = Balancer::start([servers[0].address, servers[1].address]);
    let mut clients = JoinSet::new();
    for client in 0..16 {
        clients.spawn(pay(Arc::clone(&balancer), client));
    }
    for place in [0, 1, 0, 1] {
        balancer.takes_part(servers[place].address).await;
        servers[place].signal("TERM");
        let (status, log) = servers[place].wait();
        assert!(status.success() && log.contains("stopped"), "{status}: {log}");
        servers[place] = start();
        balancer.servers.lock().unwrap()[place] = servers[place].address;
        balancer.takes_part(servers[place].address).await;
    }
    balancer.stopped.store(true, Ordering::Relaxed);
    let mut payments = 0;
    while let Some(client) = clients.join_next().await {
        payments += client.expect("a client none of whose requests failed");
    }
    assert_eq!(database.payments().await, payments);
    eprintln!("{payments} payments, by server {:?}", balancer.answers.lock().unwrap());
}
