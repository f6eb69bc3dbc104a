//! The file `.env`, which adds to the environment.

use std::{
    fs,
    io::{self, ErrorKind, Read},
    path::Path,
};

use super::ConfigError;

/// Reads `.env` from the working directory into the environment. Variables that are set already keep their
/// value. Parent directories are not searched: a file there belongs to something else.
///
/// # Errors
/// When the file exists and cannot be read or parsed.
pub fn read_dot_env() -> Result<(), ConfigError> {
    let path = Path::new(".env");
    let refuse = |reason| Err(ConfigError::DotEnv { path: path.to_path_buf(), reason });
    // A directory of this name is a Python environment, or Docker made it to mount a missing file.
    if path.is_dir() {
        return Ok(());
    }
    let content = match fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return refuse(error.to_string()),
        Ok(content) => content,
    };
    let mut lines = Lines { rest: &content, read: 0 };
    match dotenvy::from_read(&mut lines) {
        Ok(()) => Ok(()),
        // The content may hold a secret, on every line and on both sides of an equals sign.
        Err(dotenvy::Error::LineParse(text, _)) => {
            refuse(format!("line {} is not NAME=value", lines.first_of(&text)))
        }
        Err(dotenvy::Error::Io(error)) => refuse(format!("line {}: {}", lines.read, error.kind())),
        Err(_) => refuse(format!("line {} cannot be evaluated", lines.read)),
    }
}

/// Hands out one line for each read, so that a buffered reader knows no more than it has parsed.
struct Lines<'a> {
    rest: &'a [u8],
    read: usize,
}

impl Lines<'_> {
    /// The number of the line on which `text` starts: the text that was read last, which can span several.
    fn first_of(&self, text: &str) -> usize {
        (self.read + 1).saturating_sub(text.lines().count().max(1)).max(1)
    }
}

impl Read for Lines<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let line = self.rest.split_inclusive(|&byte| byte == b'\n').next().unwrap_or_default();
        let length = (&*line).read(buffer)?;
        self.rest = self.rest.get(length..).unwrap_or_default();
        self.read += usize::from(length > 0 && length == line.len());
        Ok(length)
    }
}
