//! Limits the rate of lines that clients can cause, and reports how many were left out.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use log::info;

/// Lines per name and [`INTERVAL`].
const LINES: u32 = 20;

const INTERVAL: Duration = Duration::from_secs(1);

/// The lines of one name.
#[derive(Debug)]
struct Repeats {
    since: Instant,
    written: u32,
    left_out: u64,
}

static REPEATS: Mutex<BTreeMap<&'static str, Repeats>> = Mutex::new(BTreeMap::new());

/// Returns whether to write one more line of this name. The names are few.
pub fn admit(name: &'static str) -> bool {
    let now = Instant::now();
    let mut all = REPEATS.lock().unwrap_or_else(PoisonError::into_inner);
    let repeats = all.entry(name).or_insert(Repeats { since: now, written: 0, left_out: 0 });
    if repeats.left_out == 0 && now.duration_since(repeats.since) >= INTERVAL {
        *repeats = Repeats { since: now, written: 0, left_out: 0 };
    }
    let admitted = repeats.written < LINES;
    if admitted {
        repeats.written += 1;
    } else {
        repeats.left_out += 1;
    }
    admitted
}

/// Reports left-out lines of the names whose interval is over.
pub(super) fn report() {
    report_since(INTERVAL);
}

/// Reports all left-out lines.
pub(super) fn report_now() {
    report_since(Duration::ZERO);
}

fn report_since(interval: Duration) {
    let now = Instant::now();
    let mut all = REPEATS.lock().unwrap_or_else(PoisonError::into_inner);
    let mut left_out = Vec::new();
    all.retain(|name, repeats| {
        let over = now.duration_since(repeats.since) >= interval;
        if over && repeats.left_out > 0 {
            left_out.push((*name, repeats.left_out));
        }
        !over
    });
    // Logging needs other locks.
    drop(all);
    for (name, count) in left_out {
        info!(target: "payonce::problem", left_out = count; "{name}: lines left out");
    }
}
