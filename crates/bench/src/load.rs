//! Clients over keep-alive HTTP: `wrk`, a process of its own.
//!
//! It is a closed loop: a client sends its next request when it has the response to the last one. Its percentiles are high
//! estimates: it counts a slow response several times, for requests that could have been sent meanwhile.

use std::{
    net::SocketAddr,
    process::{Child, Command, Stdio},
};

use super::results::{Sample, float};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/load.lua");

/// The number of stored keys that replays choose from; load.lua has the same number.
pub const STORED: usize = 10_000;

/// The requests that clients send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requests {
    /// New payments with random keys.
    New,
    /// New payments with keys in order of time.
    Ordered,
    /// Payments whose responses are stored.
    Replays,
    /// Payments that all have one key, another one each second.
    OneKey,
}

impl Requests {
    fn kind(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Ordered => "ordered",
            Self::Replays => "replay",
            Self::OneKey => "one-key",
        }
    }
}

/// A stored key; load.lua makes the same ones.
pub fn stored_key(place: usize) -> String {
    format!("a-key-that-was-stored-before-{place:07}")
}

/// A running load.
pub struct Load {
    requests: Requests,
    wrk: Child,
}

impl Load {
    /// Starts so many clients for so many seconds.
    pub fn start(address: SocketAddr, requests: Requests, clients: u32, seconds: u64) -> Self {
        Self::with_api_key("", address, requests, clients, seconds)
    }

    /// Starts a load that sends this API key, if it is not empty.
    pub fn with_api_key(
        api_key: &str,
        address: SocketAddr,
        requests: Requests,
        clients: u32,
        seconds: u64,
    ) -> Self {
        let seed = fastrand::u32(..10_000_000).to_string();
        // More threads would take the cores from the server and PostgreSQL.
        let wrk = Command::new("wrk")
            .args(["-t", "1", "-c", &clients.to_string()])
            .args(["-d", &format!("{seconds}s"), "--timeout", "10s", "-s", SCRIPT])
            .args([&format!("http://{address}"), "--", requests.kind(), &seed, api_key])
            .stdout(Stdio::piped())
            .spawn()
            .expect("wrk is installed (apt-get install wrk, brew install wrk)");
        Self { requests, wrk }
    }

    /// Waits for its end. Every request must have succeeded.
    pub fn figures(self) -> Sample {
        let output = self.wrk.wait_with_output().unwrap().stdout;
        let output = String::from_utf8(output).unwrap();
        let figures = output.split("figures: ").nth(1).unwrap_or_else(|| panic!("wrk: {output}"));
        let mut figures: Sample = serde_json::from_str(figures.trim()).unwrap();
        for failures in ["refused", "broken"] {
            assert!(figures[failures] < 1.0, "{:?}, {failures}: {output}", self.requests);
        }
        figures.insert("rate".into(), figures["requests"] / figures["seconds"]);
        figures
    }

    /// Starts a load, and waits for its end.
    pub fn run(address: SocketAddr, requests: Requests, clients: u32, seconds: u64) -> Sample {
        Self::start(address, requests, clients, seconds).figures()
    }
}

/// The figures of loads that ran at the same time: the sum of rates, the longest of times.
pub fn together(loads: Vec<Sample>) -> Sample {
    let mut whole = Sample::new();
    for (name, figure) in loads.into_iter().flatten() {
        let so_far = whole.entry(name.clone()).or_insert(0.0);
        *so_far = if name.ends_with("_ms") || name == "seconds" {
            so_far.max(figure)
        } else {
            *so_far + figure
        };
    }
    whole
}

/// The number of requests in a sample.
pub fn requests(sample: &Sample) -> f64 {
    sample["requests"].max(float(1_u64))
}
