//! Reading `/metrics`.

use std::collections::BTreeMap;

use crate::{client::Client, wait::until};

/// A response of `/metrics`: values by name and labels.
pub struct Sample(BTreeMap<String, f64>);

impl Sample {
    /// Reads the metrics of a server.
    pub async fn of(client: &Client) -> Self {
        Self::read(&text(client).await)
    }

    fn read(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let samples = lines.map(|line| line.rsplit_once(' ').unwrap());
        Self(samples.map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect())
    }

    /// The value of a metric; 0 if there is none.
    pub fn get(&self, name: &str) -> f64 {
        self.0.get(name).copied().unwrap_or(0.0)
    }

    /// Asserts the value of a metric.
    #[track_caller]
    pub fn assert(&self, name: &str, value: u32) {
        assert!((self.get(name) - f64::from(value)).abs() < f64::EPSILON, "{name}: {:#?}", self.0);
    }

    /// The names and labels of all metrics.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.0.keys()
    }

    /// Returns the number of batches that have gone through this step.
    pub fn batch_steps(&self, step: &str) -> u64 {
        let name = format!("payonce_batch_step_duration_seconds_count{{step=\"{step}\"}}");
        format!("{:.0}", self.get(&name)).parse().unwrap()
    }

    /// Returns the number of requests of an operation that had this outcome.
    pub fn outcome(&self, operation: &str, outcome: &str) -> f64 {
        self.get(&format!(
            "payonce_keyed_requests_total{{operation=\"{operation}\",outcome=\"{outcome}\"}}"
        ))
    }
}

/// Waits until a metric is at least this.
pub async fn reaches(client: &Client, name: &str, value: u32) {
    becomes(client, name, |current| current >= f64::from(value)).await;
}

/// Waits until the value of a metric is right.
pub async fn becomes(client: &Client, name: &str, right: impl Fn(f64) -> bool) {
    until(name, async || right(Sample::of(client).await.get(name))).await;
}

/// The text of `/metrics`.
pub async fn text(client: &Client) -> String {
    let response = client.get("/metrics").await;
    assert_eq!(response.status, 200, "{}", response.body);
    assert_eq!(response.header("content-type"), "text/plain; version=0.0.4");
    response.body
}

/// Waits until a server has looked up a key because another session is executing it.
pub async fn until_found_in_flight(client: &Client) {
    until("a key is looked up", async || Sample::of(client).await.batch_steps("look_up") > 0).await;
}
