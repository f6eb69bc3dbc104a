//! Writes log lines to stderr on a thread of its own, so that a stderr that nobody reads blocks nobody.

use std::{
    io::{self, ErrorKind, Write},
    mem,
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use log::warn;

use super::repeats;

/// Bytes of lines that wait to be written. A line that finds no room is dropped and counted.
const ROOM: usize = 1 << 20;

/// The pause before a stderr that takes nothing right now is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// How often the counts of left-out lines are looked at while nothing is logged.
const IDLE_INTERVAL: Duration = Duration::from_secs(1);

/// Lines that wait.
#[derive(Debug)]
struct Waiting {
    lines: Vec<u8>,
    /// Lines that are being written, and no longer among those that wait.
    writing: bool,
    /// Dropped lines that no line has told of yet.
    dropped: u64,
}

static WAITING: Mutex<Waiting> =
    Mutex::new(Waiting { lines: Vec::new(), writing: false, dropped: 0 });

/// Something was added to what waits, or all of it was written.
static CHANGED: Condvar = Condvar::new();

static STARTED: AtomicBool = AtomicBool::new(false);

static DROPPED: AtomicU64 = AtomicU64::new(0);

/// The number of lines that were dropped since the program started.
#[must_use]
pub fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Takes a line for the thread. To be given to a logger that writes a line at a time.
pub(super) struct Queue;

impl Write for Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut waiting = lock();
        if waiting.lines.len() + line.len() > ROOM {
            waiting.dropped += 1;
            DROPPED.fetch_add(1, Ordering::Relaxed);
        } else {
            waiting.lines.extend_from_slice(line);
            CHANGED.notify_all();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Waits until everything is written, at most this long.
pub(super) fn flush(limit: Duration) {
    let end = Instant::now() + limit;
    let mut waiting = lock();
    while waiting.writing || !waiting.lines.is_empty() {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        waiting = CHANGED.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
    }
}

/// Starts the thread. To be called once.
pub(super) fn start() -> io::Result<()> {
    thread::Builder::new().name("log".to_owned()).spawn(run)?;
    STARTED.store(true, Ordering::Release);
    Ok(())
}

/// Whether lines go by the thread.
pub(super) fn is_started() -> bool {
    STARTED.load(Ordering::Acquire)
}

fn run() {
    let mut lines = Vec::new();
    loop {
        let mut waiting = lock();
        waiting.writing = false;
        if waiting.lines.is_empty() {
            CHANGED.notify_all();
            waiting = CHANGED
                .wait_timeout(waiting, IDLE_INTERVAL)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        waiting.writing = !waiting.lines.is_empty();
        mem::swap(&mut waiting.lines, &mut lines);
        let dropped = mem::take(&mut waiting.dropped);
        drop(waiting);
        write(&lines);
        lines.clear();
        if dropped > 0 {
            warn!("{dropped} log lines were dropped: stderr takes them too slowly");
        }
        repeats::report();
    }
}

/// Nobody is left to be told where stderr is closed.
fn write(mut lines: &[u8]) {
    while !lines.is_empty() {
        match io::stderr().write(lines) {
            Ok(written) => lines = lines.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(RETRY_PAUSE),
            Err(_) => return,
        }
    }
}

fn lock() -> MutexGuard<'static, Waiting> {
    WAITING.lock().unwrap_or_else(PoisonError::into_inner)
}
