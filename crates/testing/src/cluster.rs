//! PostgreSQL servers that a test can stop, kill and promote.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use sqlx::{ConnectOptions, Connection, PgConnection, postgres::PgConnectOptions};

use super::{port::free_port, wait::PATIENCE};

/// A PostgreSQL server in a folder of its own, which is deleted with it.
pub struct Cluster {
    folder: PathBuf,
    pub port: u16,
}

impl Cluster {
    /// Starts an empty server with these parameters (`name = value` lines).
    pub fn start(parameters: &str) -> Self {
        let cluster = Self::new();
        let data = cluster.data();
        cluster.run(
            "initdb",
            &["-D", &data, "-U", "payonce", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"],
        );
        cluster.configure(parameters);
        cluster.start_again();
        cluster
    }

    /// Starts a standby of this server.
    #[must_use]
    pub fn standby(&self) -> Self {
        let standby = Self::new();
        let primary =
            format!("host=127.0.0.1 port={} user=payonce application_name=standby", self.port);
        standby.run(
            "pg_basebackup",
            &[
                "-D",
                &standby.data(),
                "-d",
                &primary,
                "-R",
                "-X",
                "stream",
                "-c",
                "fast",
                "--no-sync",
            ],
        );
        // After promotion it commits without a standby.
        standby.configure("synchronous_standby_names = ''");
        standby.start_again();
        standby
    }

    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder =
            std::env::temp_dir().join(format!("payonce-cluster-{}-{number}", std::process::id()));
        let port = free_port();
        std::fs::create_dir(&folder).unwrap();
        let cluster = Self { folder, port };
        if let Some(user) = server_user() {
            let folder = cluster.folder.to_str().unwrap();
            assert!(Command::new("chown").args([user, folder]).status().unwrap().success());
        }
        cluster
    }

    fn configure(&self, parameters: &str) {
        let file = format!("{}/postgresql.auto.conf", self.data());
        let port = self.port;
        let old = std::fs::read_to_string(&file).unwrap_or_default();
        let own = format!(
            "port = {port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = ''\nmax_connections = 50\n\
             wal_level = replica\nshared_buffers = '32MB'\n{parameters}\n"
        );
        std::fs::write(file, old + &own).unwrap();
    }

    /// Starts the server, and waits until it accepts connections.
    pub fn start_again(&self) {
        let log = self.folder.join("log");
        self.run(
            "pg_ctl",
            &["-D", &self.data(), "-l", log.to_str().unwrap(), "-w", "-t", "60", "start"],
        );
    }

    /// Stops the server without a checkpoint: it must recover from the write-ahead log.
    pub fn stop_immediately(&self) {
        self.run("pg_ctl", &["-D", &self.data(), "-m", "immediate", "-w", "stop"]);
    }

    /// Kills its first process, and what that leaves behind.
    pub fn kill(&self) {
        let pid = self.postmaster().expect("a server that runs");
        let children =
            Command::new("ps").args(["-o", "pid=", "--ppid", &pid]).output().unwrap().stdout;
        let mut kill = Command::new("kill");
        let children = String::from_utf8(children).unwrap();
        kill.args(["-KILL", &pid]).args(children.split_whitespace());
        // A child may have ended by itself meanwhile.
        let _ = kill.stderr(Stdio::null()).status().unwrap();
        // The last of them lets go of the shared memory, without which no server starts again.
        let alive = |pid: &str| {
            Command::new("kill").args(["-0", pid]).stderr(Stdio::null()).status().unwrap().success()
        };
        let begun = Instant::now();
        for pid in children.split_whitespace().chain([pid.as_str()]) {
            while alive(pid) {
                let waited = begun.elapsed();
                assert!(waited < PATIENCE, "{pid} outlives its kill");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }

    /// The id of its first process, if that runs. A killed server leaves the file with its id, and the id may be
    /// another process's by now.
    fn postmaster(&self) -> Option<String> {
        let file = std::fs::read_to_string(format!("{}/postmaster.pid", self.data())).ok()?;
        let pid = file.lines().next()?;
        let ps = Command::new("ps").args(["-o", "args=", "-p", pid]).output().unwrap().stdout;
        String::from_utf8_lossy(&ps).contains(&self.data()).then(|| pid.to_owned())
    }

    /// Makes a standby a primary.
    pub fn promote(&self) {
        self.run("pg_ctl", &["-D", &self.data(), "-w", "promote"]);
    }

    pub fn options(&self) -> PgConnectOptions {
        let url = format!("postgres://payonce@127.0.0.1:{}/postgres?sslmode=disable", self.port);
        PgConnectOptions::from_url(&url.parse().unwrap()).unwrap()
    }

    /// The number that a query gives.
    pub async fn number(&self, sql: &'static str) -> i64 {
        let mut conn = PgConnection::connect_with(&self.options()).await.unwrap();
        let number = sqlx::query_scalar(sql).fetch_one(&mut conn).await.unwrap();
        conn.close().await.unwrap();
        number
    }

    fn data(&self) -> String {
        format!("{}/data", self.folder.to_str().unwrap())
    }

    /// Runs one of PostgreSQL's programs, as somebody whom it doesn't refuse.
    fn run(&self, program: &str, arguments: &[&str]) {
        let program = program_path(program);
        let mut command = match server_user() {
            Some(user) => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid", user, "--regid", user, "--clear-groups"]).arg(program);
                command
            }
            None => Command::new(program),
        };
        // A server that inherits a pipe would keep it open.
        let log = std::fs::File::create(self.folder.join("last-output")).unwrap();
        command
            .args(arguments)
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let status = command.status().unwrap();
        let output =
            || std::fs::read_to_string(self.folder.join("last-output")).unwrap_or_default();
        let server_log = || std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        assert!(status.success(), "{command:?}: {}{}", output(), server_log());
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.postmaster().is_some() {
            self.kill();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// PostgreSQL doesn't run as root: then somebody else runs it.
fn server_user() -> Option<&'static str> {
    let id = Command::new("id").arg("-u").output().unwrap().stdout;
    if id != b"0\n" {
        return None;
    }
    let exists = |user: &&str| Command::new("id").arg(user).output().unwrap().status.success();
    ["postgres", "nobody"].into_iter().find(exists)
}

/// In PATH, which `scripts/with-postgres` sees to, or where Debian puts it.
fn program_path(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.extend(debian.map(|version| version.path().join("bin")));
    folders.into_iter().map(|folder| folder.join(name)).find(|file| file.exists()).unwrap_or_else(
        || {
            panic!(
                "this test needs PostgreSQL's server programs ({name} is not in PATH): run it by \
             scripts/with-postgres cargo test, or leave it out with cargo test -- --skip cluster"
            )
        },
    )
}
