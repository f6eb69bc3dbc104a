//! The machine, PostgreSQL and its settings, without names of hosts or folders.

use std::{collections::BTreeMap, fs, process::Command, sync::OnceLock};

use serde::{Deserialize, Serialize};
use sqlx::Row;

use super::support::TestDatabase;

/// The settings that decide how fast and how durable PostgreSQL is.
const SETTINGS: [&str; 10] = [
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "wal_level",
    "wal_compression",
    "shared_buffers",
    "huge_pages",
    "max_wal_size",
    "checkpoint_timeout",
    "commit_delay",
];

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Machine {
    pub cores: usize,
    pub processor: String,
    pub memory_gib: u64,
    pub system: String,
    pub postgresql: String,
    pub settings: BTreeMap<String, String>,
    pub payonce: String,
}

impl Machine {
    /// Describes the machine that the benchmark runs on.
    pub async fn this(database: &TestDatabase) -> Self {
        let mut conn = database.connect().await;
        let rows = sqlx::query(
            "SELECT name, current_setting(name) AS value FROM unnest($1::text[]) AS name
             UNION ALL SELECT 'version', current_setting('server_version')",
        )
        .bind(&SETTINGS[..])
        .fetch_all(&mut conn)
        .await
        .unwrap();
        let mut settings: BTreeMap<String, String> =
            rows.iter().map(|row| (row.get("name"), row.get("value"))).collect();
        if let Ok(bytes) = fs::read_to_string("/proc/sys/vm/dirty_background_bytes") {
            // 0 is the default.
            settings.insert("vm.dirty_background_bytes".to_owned(), bytes.trim().to_owned());
        }
        Self {
            cores: std::thread::available_parallelism().map_or(0, Into::into),
            processor: processor(),
            memory_gib: memory_kib() / 1024 / 1024,
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            // Distributions append their own version.
            postgresql: settings
                .remove("version")
                .and_then(|version| Some(version.split_whitespace().next()?.to_owned()))
                .unwrap_or_default(),
            settings,
            payonce: commit(),
        }
    }

    /// A description in sentences.
    pub fn sentences(&self) -> String {
        let Self { cores, processor, memory_gib, system, postgresql, settings, payonce } = self;
        let settings: Vec<String> =
            settings.iter().map(|(name, value)| format!("`{name}` {value}")).collect();
        let durable = if self.is_durable() { "durable" } else { "**not durable**" };
        format!(
            "Machine: {cores} cores ({processor}), {memory_gib} GiB, {system}, shared by load, server and PostgreSQL. \
             PostgreSQL {postgresql}, {durable}: {}. payonce {payonce}.",
            settings.join(", ")
        )
    }

    /// Returns whether an acknowledged payment survives a crash.
    fn is_durable(&self) -> bool {
        let on = |name: &str| self.settings.get(name).is_some_and(|value| value != "off");
        on("fsync") && on("synchronous_commit") && on("full_page_writes")
    }
}

/// The processor's model.
fn processor() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let value = |name: &str| {
        let line = info.lines().find(|line| line.starts_with(name))?;
        Some(line.split(':').nth(1)?.trim().to_owned())
    };
    value("model name").unwrap_or_else(|| "unknown".to_owned())
}

fn memory_kib() -> u64 {
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = info.lines().find(|line| line.starts_with("MemTotal:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
}

/// The version, and the commit of the checkout. It is read once, before the first results change the checkout.
fn commit() -> String {
    static COMMIT: OnceLock<String> = OnceLock::new();
    COMMIT.get_or_init(commit_now).clone()
}

fn commit_now() -> String {
    let git = Command::new("git").args(["describe", "--always", "--dirty", "--exclude=*"]).output();
    let commit = git.ok().filter(|git| git.status.success()).map(|git| git.stdout);
    let commit = commit.and_then(|commit| String::from_utf8(commit).ok()).unwrap_or_default();
    format!("{} {}", env!("CARGO_PKG_VERSION"), commit.trim()).trim().to_owned()
}
