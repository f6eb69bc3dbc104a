//! Servers that a user could choose instead of payonce, from crates.io and PyPI: see `peers/`.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use super::support::{
    TestDatabase,
    binary::{Serve, url},
};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peers");
const CRATESTACK_LOCK: &str = include_str!("../peers/cratestack/Cargo.lock");
const FLASK_REQUIREMENTS: &str = include_str!("../peers/flask/requirements.txt");

/// The servers, built and installed.
pub struct Peers {
    cratestack: PathBuf,
    gunicorn: PathBuf,
}

impl Peers {
    /// Builds and installs them below `target`.
    pub fn prepare() -> Self {
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/peers");
        succeed(
            Command::new("cargo")
                .args(["build", "--release", "--locked", "--target-dir"])
                .arg(&target)
                .current_dir(format!("{FOLDER}/cratestack")),
        );
        let environment = target.join("flask");
        succeed(Command::new("python3").args(["-m", "venv"]).arg(&environment));
        succeed(
            Command::new(environment.join("bin/pip"))
                .args(["install", "--quiet", "--disable-pip-version-check", "--requirement"])
                .arg(format!("{FOLDER}/flask/requirements.txt")),
        );
        Self {
            cratestack: target.join("release/cratestack-peer").canonicalize().unwrap(),
            gunicorn: environment.join("bin/gunicorn").canonicalize().unwrap(),
        }
    }

    /// Starts the server of cratestack on this database, which has the usual design's tables.
    pub fn start_cratestack(&self, database: &TestDatabase) -> Serve {
        Serve::spawn(Command::new(&self.cratestack).env("DATABASE_URL", url(&database.options)))
    }

    /// Starts Flask behind gunicorn on this database, which has the usual design's tables.
    pub fn start_flask(&self, database: &TestDatabase) -> Serve {
        Serve::spawn(
            Command::new(&self.gunicorn)
                .args(["--config", "gunicorn.conf.py", "app:app"])
                .current_dir(format!("{FOLDER}/flask"))
                .env("PYTHONDONTWRITEBYTECODE", "1")
                .env("DATABASE_URL", libpq_url(database)),
        )
    }
}

/// The database's URL without sqlx's own parameters, which libpq refuses.
pub fn libpq_url(database: &TestDatabase) -> String {
    url(&database.options).split('?').next().unwrap_or_default().to_owned()
}

/// The version of a crate that cratestack's server is built from.
pub fn cratestack_version(name: &str) -> &'static str {
    let entry = CRATESTACK_LOCK.split(&format!("name = \"{name}\"\nversion = \"")).nth(1).unwrap();
    entry.split('"').next().unwrap()
}

/// The version of a package that Flask's server runs on.
pub fn flask_version(name: &str) -> &'static str {
    let lines = FLASK_REQUIREMENTS.lines();
    lines.filter_map(|line| line.split_once("==")).find(|(package, _)| *package == name).unwrap().1
}

fn succeed(command: &mut Command) {
    let status = command.status();
    assert!(status.is_ok_and(|status| status.success()), "failed: {command:?}");
}
