//! Servers are replaced one by one under load, and no request fails.

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

/// A load balancer: it checks the readiness of its servers periodically, and connects to ready ones. It
/// keeps a connection until the server closes it, or for some requests.
struct Balancer {
    servers: Mutex<[SocketAddr; 2]>,
    ready: Mutex<BTreeSet<SocketAddr>>,
    responses: Mutex<BTreeMap<SocketAddr, u32>>,
    stopped: AtomicBool,
}

impl Balancer {
    fn start(servers: [SocketAddr; 2]) -> Arc<Self> {
        let balancer = Arc::new(Self {
            servers: Mutex::new(servers),
            ready: Mutex::new(servers.into()),
            responses: Mutex::default(),
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

    /// Connects to any server that is ready.
    async fn connect(&self) -> (SocketAddr, Wire) {
        let server = {
            let ready = self.ready.lock().unwrap();
            *ready.iter().nth(fastrand::usize(..ready.len())).unwrap()
        };
        (server, Wire::connect(server).await)
    }

    /// Waits until this server has responded to some payments.
    async fn takes_part(&self, server: SocketAddr) {
        let asked = async || {
            self.responses.lock().unwrap().get(&server).is_some_and(|responses| *responses >= 20)
        };
        until("the server has answered some payments", asked).await;
    }
}

async fn is_ready(server: SocketAddr) -> bool {
    let asking = async {
        // A server that has stopped refuses the connection.
        tokio::net::TcpStream::connect(server).await.ok()?;
        let mut wire = Wire::connect(server).await;
        wire.send("GET /health/ready HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        wire.response().await.filter(|(head, _)| head.starts_with("http/1.1 200"))
    };
    asking.await.is_some()
}

/// Creates payments until the balancer stops, each with one request and every tenth with a duplicate. Returns
/// their number. Any unexpected response fails the test.
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
            let (head, body) = wire.response().await.expect("every request is answered");
            assert!(head.starts_with(&format!("http/1.1 {status}")), "{head}{body}");
            *balancer.responses.lock().unwrap().entry(server).or_default() += 1;
            // Sometimes the client reconnects, or a new server would get no connections.
            if !head.contains("connection: close") && fastrand::u8(..20) > 0 {
                connection = Some((server, wire));
            }
            // Connections of a balancer are idle at times.
            sleep(Duration::from_millis(fastrand::u64(..20))).await;
        }
        payments += 1;
    }
    payments
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_servers_are_replaced_one_by_one() {
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
    eprintln!("{payments} payments, by server {:?}", balancer.responses.lock().unwrap());
}
