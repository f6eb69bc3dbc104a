//! The program `payonce` as a child process.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    ops::{Deref, DerefMut},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use sqlx::{ConnectOptions, postgres::PgConnectOptions};

use super::{
    client::{PAYMENT, Wire},
    port::free_port,
    wait::{PATIENCE, PAUSE},
};

/// The path of the program that cargo built together with the running test or benchmark.
fn program() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    // Tests are in target/PROFILE/deps, programs in target/PROFILE.
    let folder = own.ancestors().skip(1).find(|folder| !folder.ends_with("deps")).unwrap();
    let program = folder.join("payonce").with_extension(std::env::consts::EXE_EXTENSION);
    assert!(program.exists(), "{} is missing: run cargo build first", program.display());
    program
}

/// The program with these arguments and an empty environment, in a folder without `.env`.
pub fn payonce(arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.args(arguments).env_clear().current_dir(std::env::temp_dir()).stdin(Stdio::null());
    command
}

/// The program's exit code, standard output and standard error.
pub fn run(command: &mut Command) -> (i32, String, String) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let stdout = read_all(child.stdout.take().unwrap());
    let stderr = read_all(child.stderr.take().unwrap());
    let status = ended(&mut child, 2 * PATIENCE).unwrap_or_else(|| {
        let _ = child.kill();
        panic!("still running after {:?}: {command:?}", 2 * PATIENCE);
    });
    (status.code().unwrap_or(-1), stdout.join().unwrap(), stderr.join().unwrap())
}

fn read_all(mut stream: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Waits for the end of a child; `None` if it doesn't end within this time.
fn ended(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let begun = Instant::now();
    while begun.elapsed() < limit {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        std::thread::sleep(PAUSE);
    }
    None
}

/// Sends a child a signal, by the name that `kill` knows. A child that has ended gets none: its process id may be
/// another's by now.
pub fn signal(child: &mut Child, name: &str) {
    if child.try_wait().unwrap().is_none() {
        let kill = Command::new("kill").args(["-s", name, &child.id().to_string()]).status();
        assert!(kill.unwrap().success());
    }
}

/// The `DATABASE_URL` of a database.
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

/// A running program, killed when it goes out of scope. Its log is what it writes to standard error.
pub struct Process {
    pub child: Child,
    log: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Process {
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
        Self { child, log, reader: Some(reader) }
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits until its log contains this text, and returns the log.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) -> String {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            let ended = self.child.try_wait().unwrap().is_some();
            let log = self.log();
            if log.contains(text) {
                return log;
            }
            assert!(!ended, "it ended before it logged {text:?}");
            std::thread::sleep(PAUSE);
        }
        panic!("{text:?} is not in the log after {PATIENCE:?}");
    }

    /// Sends it a signal, by the name that `kill` knows.
    pub fn signal(&mut self, name: &str) {
        signal(&mut self.child, name);
    }

    /// Waits for its end, and returns its exit status and its whole log.
    #[track_caller]
    pub fn wait(&mut self) -> (ExitStatus, String) {
        let status = ended(&mut self.child, PATIENCE).expect("a process that ends");
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        (status, self.log())
    }

    /// Prints its state and the end of its log, for a test that fails.
    fn explain(&mut self) {
        let status = match self.child.try_wait() {
            Ok(None) => "running".to_owned(),
            Ok(Some(status)) => status.to_string(),
            Err(error) => error.to_string(),
        };
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let end = lines[lines.len().saturating_sub(50)..].join("\n");
        eprintln!("process {} ({status}) logged at last:\n{end}", self.child.id());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.explain();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `payonce serve`.
pub struct Serve {
    process: Process,
    pub address: SocketAddr,
}

impl Serve {
    /// Starts a server on a port that nobody else takes when it is killed, with these environment variables.
    pub fn start(options: &PgConnectOptions, variables: &[(&str, &str)]) -> Self {
        let mut command = payonce(&["serve"]);
        command
            .env("DATABASE_URL", url(options))
            .env("PORT", free_port().to_string())
            .envs(variables.iter().copied());
        Self::spawn(&mut command)
    }

    /// Starts a program that logs, as payonce does, the address on which it listens.
    pub fn spawn(command: &mut Command) -> Self {
        let mut process = Process::spawn(command);
        let log = process.wait_for("listens on http://");
        let line = log.lines().find(|line| line.contains("listens on http://")).unwrap();
        // A line in JSON continues after the address.
        let address = line.rsplit("http://").next().unwrap().split('"').next().unwrap();
        Self { process, address: address.parse().unwrap() }
    }
}

impl Serve {
    /// Sends a payment with this key, and returns the connection before its response.
    pub async fn begin_payment(&self, key: &str) -> Wire {
        let mut wire = Wire::connect(self.address).await;
        let head = format!("Content-Type: application/json\r\nIdempotency-Key: {key}\r\n");
        wire.send_payment(&head, PAYMENT).await;
        wire
    }
}

impl Deref for Serve {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for Serve {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}
