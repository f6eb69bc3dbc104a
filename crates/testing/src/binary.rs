//! The real program, as a child process.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use sqlx::{ConnectOptions, postgres::PgConnectOptions};

/// The path of the program that cargo built together with the running test or benchmark.
fn program() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    // Tests are in target/PROFILE/deps, programs in target/PROFILE.
    let folder = own.ancestors().skip(1).find(|folder| !folder.ends_with("deps")).unwrap();
    let program = folder.join("payonce").with_extension(std::env::consts::EXE_EXTENSION);
    assert!(program.exists(), "{} is missing: run cargo build first", program.display());
    program
}

/// The program with these arguments, in an empty folder and with nothing in its environment.
pub fn payonce(arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.args(arguments).env_clear().current_dir(std::env::temp_dir()).stdin(Stdio::null());
    command
}

/// The program's exit code, and what it printed.
pub fn run(command: &mut Command) -> (i32, String, String) {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

/// A database as `DATABASE_URL` names it.
pub fn url(options: &PgConnectOptions) -> String {
    options.to_url_lossy().to_string()
}

/// An empty folder, deleted at the end.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let folder =
            std::env::temp_dir().join(format!("payonce-test-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// `payonce serve`, killed when it goes out of scope.
pub struct Serve {
    pub child: Child,
    pub address: SocketAddr,
    log: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Serve {
    /// Starts a server on any free port, with these variables besides.
    pub fn start(options: &PgConnectOptions, variables: &[(&str, &str)]) -> Self {
        let mut command = payonce(&["serve"]);
        command.env("DATABASE_URL", url(options)).env("PORT", "0").envs(variables.iter().copied());
        Self::spawn(&mut command)
    }

    /// Starts whatever logs, as payonce does, on which address it listens.
    pub fn spawn(command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let log = Arc::new(Mutex::new(String::new()));
        let reader = std::thread::spawn({
            let log = Arc::clone(&log);
            move || {
                for line in stderr.lines().map_while(Result::ok) {
                    let mut log = log.lock().unwrap();
                    log.push_str(&line);
                    log.push('\n');
                }
            }
        });
        let mut serve =
            Self { child, address: ([127, 0, 0, 1], 0).into(), log, reader: Some(reader) };
        let listening = serve.wait_for("listens on http://");
        let line = listening.lines().find(|line| line.contains("listens on http://")).unwrap();
        // In JSON, more comes after it.
        let address = line.rsplit("http://").next().unwrap().split('"').next().unwrap();
        serve.address = address.parse().unwrap();
        serve
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits until this stands in its log, and returns the log.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) -> String {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(20) {
            let log = self.log();
            if log.contains(text) {
                return log;
            }
            assert!(self.child.try_wait().unwrap().is_none(), "it ended: {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{text:?} is not in the log: {}", self.log());
    }

    /// Sends it a signal, by the name that `kill` knows.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// Waits for its end, and returns how it ended and its whole log.
    #[track_caller]
    pub fn wait(&mut self, limit: Duration) -> (ExitStatus, String) {
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(begun.elapsed() < limit, "still running after {limit:?}: {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        };
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        (status, self.log())
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
