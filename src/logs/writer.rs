//! Writes log lines to stderr on a thread of its own, so that an unread stderr blocks nothing else.

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

/// Limit of waiting lines, in bytes. A line that finds no room is dropped and counted.
const ROOM: usize = 1 << 20;

/// The pause before another attempt when a non-blocking stderr is full.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// Interval of reports on left-out lines while nothing else is logged.
const IDLE_INTERVAL: Duration = Duration::from_secs(1);

/// The lines that wait.
#[derive(Debug)]
struct Waiting {
    lines: Vec<u8>,
    /// The thread is writing lines that it has taken.
    writing: bool,
    /// Dropped lines that the log has not reported yet.
    dropped: u64,
}

static WAITING: Mutex<Waiting> =
    Mutex::new(Waiting { lines: Vec::new(), writing: false, dropped: 0 });

/// Signals that lines were added, or that all of them are written.
static CHANGED: Condvar = Condvar::new();

static STARTED: AtomicBool = AtomicBool::new(false);

static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Returns the number of lines dropped since the program started.
#[must_use]
pub fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Queues lines for the thread. The logger writes a line at a time to it.
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

/// Starts the thread. Call it once.
pub(super) fn start() -> io::Result<()> {
    thread::Builder::new().name("log".to_owned()).spawn(run)?;
    STARTED.store(true, Ordering::Release);
    Ok(())
}

/// Returns whether the thread writes the lines.
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

/// Drops the lines if stderr is closed: nobody is left to tell.
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
