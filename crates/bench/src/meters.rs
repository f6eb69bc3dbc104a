//! The cost of a load: CPU time of server and database, memory, write-ahead log, commits.
//!
//! CPU time and memory come from `/proc`. Without it, or with the database on another machine, they are left out. The
//! write-ahead log is measured by its position and includes everything that the cluster wrote.

use std::{collections::HashMap, fs};

use sqlx::{Connection, PgConnection};

use super::{
    results::{Sample, float},
    support::TestDatabase,
};

/// `/proc` counts in these, whatever the kernel's own ticks are.
const TICKS_A_SECOND: f64 = 100.0;

/// Readings from before a load.
pub struct Meters<'a> {
    database: &'a TestDatabase,
    server: Option<u32>,
    before: Reading,
}

struct Reading {
    server_seconds: Option<f64>,
    database_seconds: Option<f64>,
    log_bytes: f64,
}

impl<'a> Meters<'a> {
    /// Begins after a checkpoint, so that none falls into a load.
    pub async fn start(database: &'a TestDatabase, server: Option<u32>) -> Self {
        database.execute("CHECKPOINT").await;
        Self::go_on(database, server).await
    }

    /// Begins without a checkpoint.
    pub async fn go_on(database: &'a TestDatabase, server: Option<u32>) -> Self {
        Self { database, server, before: read(database, server).await }
    }

    /// Adds the cost of each request to the figures of a load.
    pub async fn stop(self, sample: &mut Sample) {
        let after = read(self.database, self.server).await;
        let requests = super::load::requests(sample);
        let mut add = |name: &str, before: Option<f64>, after: Option<f64>, scale: f64| {
            if let (Some(before), Some(after)) = (before, after) {
                sample.insert(name.to_owned(), (after - before) * scale / requests);
            }
        };
        let before = &self.before;
        add("server_cpu_us", before.server_seconds, after.server_seconds, 1e6);
        add("database_cpu_us", before.database_seconds, after.database_seconds, 1e6);
        add("wal_bytes", Some(before.log_bytes), Some(after.log_bytes), 1.0);
        let memory = self.server.map_or(0.0, peak_memory);
        if memory > 0.0 {
            sample.insert("memory_mib".to_owned(), memory);
        }
    }
}

async fn read(database: &TestDatabase, server: Option<u32>) -> Reading {
    let mut conn = database.connect().await;
    let position = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint";
    let log_bytes: i64 = sqlx::query_scalar(position).fetch_one(&mut conn).await.unwrap();
    let database_seconds = database_seconds(&mut conn).await;
    conn.close().await.unwrap();
    let server_seconds = server.and_then(server_seconds);
    Reading { server_seconds, database_seconds, log_bytes: float(log_bytes) }
}

/// The transactions committed in this database by connections that have ended.
pub async fn commits_so_far(database: &TestDatabase) -> f64 {
    let commits = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()";
    float(database.number(commits).await)
}

/// All transactions committed in this database. PostgreSQL counts those of a connection when it ends, so this waits until
/// all other clients have disconnected.
pub async fn commits(database: &TestDatabase) -> f64 {
    let others = "SELECT count(*) FROM pg_stat_activity
                  WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'";
    while database.number(others).await > 0 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    commits_so_far(database).await
}

/// The memory that a server has now, in MiB.
pub fn memory(pid: u32) -> Option<f64> {
    status(pid, "VmRSS:")
}

/// The most memory that each process of a server had, added up; what they share counts several times.
fn peak_memory(server: u32) -> f64 {
    let processes = processes().unwrap_or_default();
    let own = processes.iter().filter(|(pid, stat)| **pid == server || stat.parent == server);
    own.filter_map(|(pid, _)| status(*pid, "VmHWM:")).sum()
}

/// The CPU time of a server: of its process, and of the children that gunicorn has.
fn server_seconds(server: u32) -> Option<f64> {
    let processes = processes()?;
    let own = processes.get(&server)?.own_seconds;
    let children = processes.values().filter(|process| process.parent == server);
    Some(own + children.map(|child| child.own_seconds).sum::<f64>())
}

fn status(pid: u32, name: &str) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with(name))?;
    let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib / 1024.0)
}

/// The CPU time of all PostgreSQL processes so far, including those that have ended.
async fn database_seconds(conn: &mut PgConnection) -> Option<f64> {
    let backend: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(conn).await.unwrap();
    let backend = stat(backend.try_into().ok()?)?;
    if !backend.name.starts_with("postgres") {
        return None; // on another machine
    }
    let processes = processes()?;
    let first = processes.get(&backend.parent)?;
    let children = processes.values().filter(|process| process.parent == backend.parent);
    let alive: f64 = children.map(|child| child.own_seconds).sum();
    Some(first.own_seconds + first.ended_children_seconds + alive)
}

/// All processes of this machine.
fn processes() -> Option<HashMap<u32, Stat>> {
    let entries = fs::read_dir("/proc").ok()?;
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    Some(pids.filter_map(|pid| Some((pid, stat(pid)?))).collect())
}

struct Stat {
    name: String,
    parent: u32,
    own_seconds: f64,
    ended_children_seconds: f64,
}

/// See proc(5). The name is in parentheses, and may contain parentheses.
fn stat(pid: u32) -> Option<Stat> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (head, tail) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = tail.split_whitespace().collect();
    let seconds = |place: usize| Some(fields.get(place)?.parse::<f64>().ok()? / TICKS_A_SECOND);
    Some(Stat {
        name: head.split_once('(')?.1.to_owned(),
        parent: fields.get(1)?.parse().ok()?,
        own_seconds: seconds(11)? + seconds(12)?,
        ended_children_seconds: seconds(13)? + seconds(14)?,
    })
}
