//! The process's use of its machine, from Linux's `/proc` (proc(5)). Other systems don't show it.

use std::{
    fs,
    time::{SystemTime, UNIX_EPOCH},
};

use prometheus::{Counter, Gauge, IntGauge, Registry};

use super::{gauge, registered};

/// The unit of time in `/proc`, on every architecture that Linux supports today.
const TICKS_PER_SECOND: f64 = 100.0;

pub(super) struct Process {
    cpu: Counter,
    memory: IntGauge,
    open_fds: IntGauge,
}

impl Process {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let shown = if cfg!(target_os = "linux") { registry } else { &Registry::new() };
        let cpu = Counter::new("process_cpu_seconds_total", "Processor time, user and system.");
        let start: Gauge = gauge(
            shown,
            "process_start_time_seconds",
            "Start time of the process, in seconds since 1970.",
        )?;
        // The server makes its metrics as it starts.
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        start.set(now.map_or(0.0, |now| now.as_secs_f64()));
        Ok(Self {
            cpu: registered(shown, cpu?)?,
            memory: gauge(shown, "process_resident_memory_bytes", "Resident memory.")?,
            open_fds: gauge(shown, "process_open_fds", "Open file descriptors.")?,
        })
    }

    /// Reads the current values.
    pub(super) fn update(&self) {
        if let Some(cpu) = cpu_seconds() {
            self.cpu.inc_by((cpu - self.cpu.get()).max(0.0));
        }
        if let Some(kilobytes) = number_after("/proc/self/status", "VmRSS:") {
            self.memory.set(kilobytes.saturating_mul(1024));
        }
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            // Without the descriptor that reads the directory.
            self.open_fds.set(i64::try_from(open.count().saturating_sub(1)).unwrap_or(i64::MAX));
        }
    }
}

/// Returns the processor time in seconds.
fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field, the name, may contain spaces and parentheses.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let ticks = |field: usize| fields.get(field - 3)?.parse::<f64>().ok();
    Some((ticks(14)? + ticks(15)?) / TICKS_PER_SECOND)
}

/// Returns the number in the line of a file that begins with this name.
fn number_after(path: &str, name: &str) -> Option<i64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}
