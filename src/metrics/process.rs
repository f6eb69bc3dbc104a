//! What this process takes of its machine, as Linux tells it in `/proc` (proc(5)); elsewhere it is not
//! shown.

use std::{
    fs,
    time::{SystemTime, UNIX_EPOCH},
};

use prometheus::{Counter, Gauge, IntGauge, Registry};

use super::{gauge, registered};

/// In what `/proc` counts time: hundredths of a second, on every architecture that Linux has today.
const TICKS_PER_SECOND: f64 = 100.0;

pub(super) struct Process {
    cpu: Counter,
    memory: IntGauge,
    open_fds: IntGauge,
}

impl Process {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let shown = if cfg!(target_os = "linux") { registry } else { &Registry::new() };
        let cpu =
            Counter::new("process_cpu_seconds_total", "Time on a processor, user and system.");
        let start: Gauge = gauge(
            shown,
            "process_start_time_seconds",
            "When the process was started, since 1970.",
        )?;
        // It makes this first thing.
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        start.set(now.map_or(0.0, |now| now.as_secs_f64()));
        Ok(Self {
            cpu: registered(shown, cpu?)?,
            memory: gauge(shown, "process_resident_memory_bytes", "Memory that is resident.")?,
            open_fds: gauge(shown, "process_open_fds", "Open file descriptors.")?,
        })
    }

    /// Reads how it is now.
    pub(super) fn update(&self) {
        if let Some(cpu) = cpu_seconds() {
            self.cpu.inc_by((cpu - self.cpu.get()).max(0.0));
        }
        if let Some(kilobytes) = number_after("/proc/self/status", "VmRSS:") {
            self.memory.set(kilobytes.saturating_mul(1024));
        }
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            // Less the one that this reads with.
            self.open_fds.set(i64::try_from(open.count().saturating_sub(1)).unwrap_or(i64::MAX));
        }
    }
}

/// Seconds on a processor.
fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // After the name, which may hold anything, and is the second field.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let ticks = |field: usize| fields.get(field - 3)?.parse::<f64>().ok();
    Some((ticks(14)? + ticks(15)?) / TICKS_PER_SECOND)
}

/// The number in the line of a file that begins with this.
fn number_after(path: &str, name: &str) -> Option<i64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}
