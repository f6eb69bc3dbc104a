//! payonce beside what else one would do, in one run on one machine: new payments a second.
//!
//! ```text
//! scripts/with-postgres cargo bench --bench payments
//! ```
//!
//! It needs `wrk`, and `pgbench` of PostgreSQL. Everything, the load too, shares this machine's cores;
//! each figure is the median of several interleaved rounds. `PAYONCE_BENCH_SECONDS` (2) and
//! `PAYONCE_BENCH_ROUNDS` (3) make it longer.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "a benchmark, whose baseline is what payonce doesn't do"
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::mpsc,
};

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use serde::Deserialize;
use sqlx::{PgPool, postgres::PgPoolOptions};
use support::{TestDatabase, TestServer, binary::url};
use uuid::Uuid;

const CLIENTS: [usize; 4] = [1, 8, 64, 256];

/// Connections of the usual design: more made it slower on two cores.
const POOL: u32 = 16;

const TABLES: &str = "
    CREATE TABLE usual_keys (key text PRIMARY KEY, fingerprint bytea NOT NULL, response text,
                             created_at timestamptz NOT NULL DEFAULT now());
    CREATE TABLE usual_payments (transaction_id uuid PRIMARY KEY, user_id text NOT NULL, amount bigint NOT NULL,
                                 created_at timestamptz NOT NULL DEFAULT now())";

const INSERT_KEY: &str =
    "INSERT INTO usual_keys (key, fingerprint) VALUES ($1, $2) ON CONFLICT DO NOTHING";
const INSERT_PAYMENT: &str =
    "INSERT INTO usual_payments (transaction_id, user_id, amount) VALUES ($1, $2, $3)";
const STORE_RESPONSE: &str = "UPDATE usual_keys SET response = $2 WHERE key = $1";

/// The same five statements without HTTP.
const FIVE_STATEMENTS: &str = r#"\set number random(1, 9000000000000000)
BEGIN;
INSERT INTO usual_keys (key, fingerprint) VALUES ('key-' || :number, '\x00112233445566778899aabbccddeeff') ON CONFLICT DO NOTHING;
INSERT INTO usual_payments (transaction_id, user_id, amount) VALUES (gen_random_uuid(), 'user_1', 100);
UPDATE usual_keys SET response = '{"status":"success","transaction_id":"01a20b8e-f5ef-76cd-ab8e-bedcccfd17b0","amount":100}' WHERE key = 'key-' || :number;
COMMIT;
"#;

/// The same in one.
const ONE_STATEMENT: &str = r#"\set number random(1, 9000000000000000)
WITH key AS (
  INSERT INTO usual_keys (key, fingerprint, response)
  VALUES ('key-' || :number, '\x00112233445566778899aabbccddeeff', '{"status":"success","transaction_id":"01a20b8e-f5ef-76cd-ab8e-bedcccfd17b0","amount":100}')
  ON CONFLICT DO NOTHING RETURNING key
)
INSERT INTO usual_payments (transaction_id, user_id, amount) SELECT gen_random_uuid(), 'user_1', 100 FROM key;
"#;

#[derive(Deserialize)]
struct Payment {
    user_id: String,
    amount: i64,
}

/// The usual design: a pooled transaction for each request.
async fn usual(
    request: HttpRequest,
    payment: web::Json<Payment>,
    pool: web::Data<PgPool>,
) -> HttpResponse {
    let key = request.headers().get("idempotency-key").unwrap().to_str().unwrap();
    let mut transaction = pool.begin().await.unwrap();
    let claimed = sqlx::query(INSERT_KEY)
        .bind(key)
        .bind(&[0_u8; 16][..])
        .execute(&mut *transaction)
        .await
        .unwrap();
    assert_eq!(claimed.rows_affected(), 1, "this benchmark sends new keys");
    let id = Uuid::new_v4();
    let insert = sqlx::query(INSERT_PAYMENT).bind(id).bind(&payment.user_id).bind(payment.amount);
    insert.execute(&mut *transaction).await.unwrap();
    let body = serde_json::json!({ "status": "success", "transaction_id": id, "user_id": payment.user_id, "amount": payment.amount });
    let body = body.to_string();
    sqlx::query(STORE_RESPONSE).bind(key).bind(&body).execute(&mut *transaction).await.unwrap();
    transaction.commit().await.unwrap();
    HttpResponse::Created().content_type("application/json").body(body)
}

/// Serves the usual design on a port of its own.
fn serve_usual(database: &TestDatabase) -> SocketAddr {
    let options = database.options.clone();
    let (ready, address) = mpsc::channel();
    std::thread::spawn(move || {
        actix_web::rt::System::new().block_on(async move {
            let pool =
                PgPoolOptions::new().max_connections(POOL).connect_with(options).await.unwrap();
            let pool = web::Data::new(pool);
            let server = HttpServer::new(move || {
                App::new().app_data(pool.clone()).route("/payment", web::post().to(usual))
            })
            .bind("127.0.0.1:0")
            .unwrap();
            ready.send(server.addrs()[0]).unwrap();
            server.run().await.unwrap();
        });
    });
    address.recv().unwrap()
}

/// The first number after this text.
fn number_after(text: &str, output: &str) -> f64 {
    let rest = output.split(text).nth(1).unwrap_or_else(|| panic!("no {text:?} in {output}"));
    let number: String =
        rest.trim_start().chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    number.parse().unwrap()
}

struct Bench {
    folder: PathBuf,
    seconds: String,
}

impl Bench {
    /// New payments a second over keep-alive connections.
    fn wrk(&self, address: SocketAddr, clients: usize) -> f64 {
        let (threads, clients) = (clients.min(2).to_string(), clients.to_string());
        let script = self.folder.join("new.lua");
        let run = Command::new("wrk")
            .args(["-t", &threads, "-c", &clients, "-d", &format!("{}s", self.seconds)])
            .args([Path::new("-s"), &script])
            .arg(format!("http://{address}/payment"))
            .output()
            .expect("wrk is installed (apt-get install wrk, brew install wrk)");
        let output = String::from_utf8(run.stdout).unwrap();
        assert!(!output.contains("Non-2xx") && !output.contains("Socket errors"), "{output}");
        number_after("Requests/sec:", &output)
    }

    /// Transactions a second.
    fn pgbench(&self, script: &str, database: &TestDatabase, clients: usize) -> f64 {
        let (threads, clients) = (clients.min(2).to_string(), clients.to_string());
        let run = Command::new("pgbench")
            .args([
                "-n",
                "-M",
                "prepared",
                "-T",
                &self.seconds,
                "-j",
                &threads,
                "-c",
                &clients,
                "-f",
            ])
            .arg(self.folder.join(script))
            // sqlx's own parameters mean nothing to libpq.
            .arg(url(&database.options).split('?').next().unwrap())
            .output()
            .expect("pgbench is in PATH: scripts/with-postgres sees to it");
        let output = String::from_utf8(run.stdout).unwrap();
        assert!(run.status.success(), "{output}{}", String::from_utf8_lossy(&run.stderr));
        number_after("tps =", &output)
    }
}

fn variable(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let bench = Bench {
        folder: std::env::temp_dir().join(format!("payonce-bench-{}", std::process::id())),
        seconds: variable("PAYONCE_BENCH_SECONDS", "2"),
    };
    let rounds: usize = variable("PAYONCE_BENCH_ROUNDS", "3").parse().expect("a number of rounds");
    fs::create_dir_all(&bench.folder).unwrap();
    let write = |name: &str, text: &str| fs::write(bench.folder.join(name), text).unwrap();
    write("five.sql", FIVE_STATEMENTS);
    write("one.sql", ONE_STATEMENT);
    write("new.lua", NEW_KEYS);

    let server = TestServer::start().await;
    let database = &server.database;
    database.execute(TABLES).await;
    let usual = serve_usual(database);

    let mut figures: BTreeMap<(usize, usize), Vec<f64>> = BTreeMap::new();
    for round in 0..=rounds {
        for (row, clients) in CLIENTS.into_iter().enumerate() {
            let round_figures = [
                bench.wrk(server.address, clients),
                bench.wrk(usual, clients),
                bench.pgbench("five.sql", database, clients),
                bench.pgbench("one.sql", database, clients),
            ];
            // The first round warms up.
            for (column, figure) in round_figures.into_iter().enumerate().filter(|_| round > 0) {
                figures.entry((row, column)).or_default().push(figure);
            }
            eprintln!("round {round}, {clients} clients: {round_figures:.0?}");
        }
    }
    let median = |row: usize, column: usize| {
        let mut figures = figures[&(row, column)].clone();
        figures.sort_by(f64::total_cmp);
        figures[figures.len() / 2]
    };
    println!(
        "| new payments a second, clients | payonce | a pooled transaction each | pgbench, 5 statements | pgbench, 1 statement | × pooled | × pgbench 5 |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (row, clients) in CLIENTS.into_iter().enumerate() {
        let [payonce, pooled, five, one] = [0, 1, 2, 3].map(|column| median(row, column));
        println!(
            "| {clients} | {payonce:.0} | {pooled:.0} | {five:.0} | {one:.0} | {:.1} | {:.1} |",
            payonce / pooled,
            payonce / five
        );
    }
    let _ = fs::remove_dir_all(&bench.folder);
}

/// Each connection's requests have keys that nobody else sends.
const NEW_KEYS: &str = r#"
local number = 0
local threads = 0
function setup(thread) thread:set("id", threads); threads = threads + 1 end
function init() prefix = string.format("%d-%d-%d-", os.time(), id, math.floor(os.clock() * 1e9)) end
function request()
  number = number + 1
  return wrk.format("POST", nil, {["Content-Type"] = "application/json", ["Idempotency-Key"] = prefix .. number},
                    '{"user_id": "user_1", "amount": 100}')
end
"#;
