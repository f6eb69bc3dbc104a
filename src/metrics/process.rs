//! What this process takes of its machine, as Linux tells it in `/proc` (proc(5)); elsewhere it is not
//! shown.

use std::fs;

use prometheus::{Counter, Gauge, IntGauge, Registry};

use super::{gauge, registered};

/// In what `/proc` counts time: hundredths of a second, on every architecture that Linux has today.
const TICKS_PER_SECOND: f64 = 100.0;

pub(super) struct Process {
    cpu: Counter,
    memory: IntGauge,
    open_fds: IntGauge,
    start: Gauge,
}

impl Process {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let shown = if cfg!(target_os = "linux") { registry } else { &Registry::new() };
        let cpu =
            Counter::new("process_cpu_seconds_total", "Time on a processor, user and system.");
        Ok(Self {
            cpu: registered(shown, cpu?)?,
            memory: gauge(shown, "process_resident_memory_bytes", "Memory that is resident.")?,
            open_fds: gauge(shown, "process_open_fds", "Open file descriptors.")?,
            start: gauge(
                shown,
                "process_start_time_seconds",
                "When the process was started, since 1970.",
            )?,
        })
    }

    /// Reads how it is now.
    pub(super) fn update(&self) {
        if let Some((cpu, start)) = times() {
            self.cpu.inc_by((cpu - self.cpu.get()).max(0.0));
            if let Some(booted) = booted() {
                self.start.set(booted + start);
            }
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

/// Seconds on a processor, and from when the machine was started until this was.
fn times() -> Option<(f64, f64)> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // After the name, which may hold anything, and is the second field.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let ticks = |field: usize| fields.get(field - 3)?.parse::<f64>().ok();
    let (user, system, start) = (ticks(14)?, ticks(15)?, ticks(22)?);
    Some(((user + system) / TICKS_PER_SECOND, start / TICKS_PER_SECOND))
}

/// When the machine was started, in seconds since 1970. A process that is shown no more than processes in `/proc`
/// (systemd's `ProcSubset=pid`) isn't told.
fn booted() -> Option<f64> {
    Some(f64::from(u32::try_from(number_after("/proc/stat", "btime ")?).ok()?))
}

/// The number in the line of a file that begins with this.
fn number_after(path: &str, name: &str) -> Option<i64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}
