//! Counts how often a server waits for the database: a proxy in between, which notes when the direction changes.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    thread,
};

use sqlx::postgres::PgConnectOptions;

/// A proxy, until the process ends.
pub struct Counter {
    /// The database, by way of the proxy.
    pub options: PgConnectOptions,
    turns: Arc<AtomicI64>,
}

impl Counter {
    /// Listens, and passes on to the database of these options.
    pub fn start(options: &PgConnectOptions) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let database = format!("{}:{}", options.get_host(), options.get_port());
        let turns = Arc::new(AtomicI64::new(0));
        let counted = Arc::clone(&turns);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                pass(client, &database, &counted).expect("the database takes connections over TCP");
            }
        });
        Self { options: options.clone().host("127.0.0.1").port(port), turns }
    }

    /// How often somebody sent something after having heard something.
    pub fn round_trips(&self) -> i64 {
        self.turns.load(Ordering::Relaxed)
    }
}

fn pass(client: TcpStream, database: &str, turns: &Arc<AtomicI64>) -> std::io::Result<()> {
    let server = TcpStream::connect(database)?;
    for stream in [&client, &server] {
        stream.set_nodelay(true)?;
    }
    let asking = Arc::new(AtomicBool::new(false));
    let (from_server, to_client) = (server.try_clone()?, client.try_clone()?);
    let (turns, asked) = (Arc::clone(turns), Arc::clone(&asking));
    thread::spawn(move || {
        copy(client, server, || {
            if !asked.swap(true, Ordering::Relaxed) {
                turns.fetch_add(1, Ordering::Relaxed);
            }
        });
    });
    thread::spawn(move || copy(from_server, to_client, || asking.store(false, Ordering::Relaxed)));
    Ok(())
}

/// Copies until either end is gone, and says when it read something.
fn copy(mut from: TcpStream, mut to: TcpStream, read_something: impl Fn()) {
    let mut chunk = [0; 16_384];
    while let Ok(count @ 1..) = from.read(&mut chunk) {
        read_something();
        if to.write_all(&chunk[..count]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
