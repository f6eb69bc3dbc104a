//! Clients over keep-alive HTTP: `wrk`, a process of its own.
//!
//! It is a closed loop: a client sends its next request when it has the answer to the last one. So its percentiles are
//! about what clients that wait for each other see, on the high side: it counts slow answers several times, for requests
//! that could have come meanwhile.

use std::{
    net::SocketAddr,
    process::{Child, Command, Stdio},
};

use super::results::{Sample, float};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/load.lua");

/// How many keys are stored before replays are asked for; load.lua has them too.
pub const STORED: usize = 10_000;

/// What clients ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requests {
    /// New payments with keys at random.
    New,
    /// New payments with keys in order of time.
    Ordered,
    /// Answers that are stored.
    Replays,
    /// 90 new, 9 replays, 1 reuse of a hundred.
    Mix,
    /// One key.
    Storm,
}

impl Requests {
    fn kind(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Ordered => "ordered",
            Self::Replays => "replay",
            Self::Mix => "mix",
            Self::Storm => "storm",
        }
    }

    /// The share that has to be refused.
    fn refused(self) -> std::ops::Range<f64> {
        if self == Self::Mix { 0.002..0.03 } else { 0.0..f64::MIN_POSITIVE }
    }
}

/// The key, load.lua's as well, that was stored at this place.
pub fn stored_key(place: usize) -> String {
    format!("a-key-that-was-stored-before-{place:07}")
}

/// A load that runs.
pub struct Load {
    requests: Requests,
    wrk: Child,
}

impl Load {
    /// Starts so many clients for so many seconds.
    pub fn start(address: SocketAddr, requests: Requests, clients: u32, seconds: u64) -> Self {
        Self::showing("", address, requests, clients, seconds)
    }

    /// The same with an API key to show.
    pub fn showing(
        api_key: &str,
        address: SocketAddr,
        requests: Requests,
        clients: u32,
        seconds: u64,
    ) -> Self {
        let seed = fastrand::u32(..10_000_000).to_string();
        // One thread: two take turns with the server's and PostgreSQL's on two cores, and new payments are slower for it.
        let wrk = Command::new("wrk")
            .args(["-t", "1", "-c", &clients.to_string()])
            .args(["-d", &format!("{seconds}s"), "--timeout", "10s", "-s", SCRIPT])
            .args([&format!("http://{address}"), "--", requests.kind(), &seed, api_key])
            .stdout(Stdio::piped())
            .spawn()
            .expect("wrk is installed (apt-get install wrk, brew install wrk)");
        Self { requests, wrk }
    }

    /// Waits for its end. Every request must have been answered as it should be.
    pub fn figures(self) -> Sample {
        let output = self.wrk.wait_with_output().unwrap().stdout;
        let output = String::from_utf8(output).unwrap();
        let figures = output.split("figures: ").nth(1).unwrap_or_else(|| panic!("wrk: {output}"));
        let mut figures: Sample = serde_json::from_str(figures.trim()).unwrap();
        let (requests, refused) = (figures["requests"], figures["refused"]);
        assert!(
            self.requests.refused().contains(&(refused / requests)),
            "{:?}: {output}",
            self.requests
        );
        assert!(figures["broken"] < f64::MIN_POSITIVE, "{:?}: {output}", self.requests);
        figures.insert("rate".into(), requests / figures["seconds"]);
        figures
    }

    /// Starts a load, and waits for its end.
    pub fn run(address: SocketAddr, requests: Requests, clients: u32, seconds: u64) -> Sample {
        Self::start(address, requests, clients, seconds).figures()
    }
}

/// The figures of loads that ran at the same time, as one: rates are added, of times the longest count.
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

/// The number of requests that a sample is about.
pub fn requests(sample: &Sample) -> f64 {
    sample["requests"].max(float(1_u64))
}
