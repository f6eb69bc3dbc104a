//! Samples, their medians and spread, and the file that stores them.

use std::{collections::BTreeMap, fs, path::Path};

use serde::{Deserialize, Serialize};

use super::machine::Machine;

/// The figures of one run of a scenario, by name.
pub type Sample = BTreeMap<String, f64>;

/// The median of several rounds, and its spread.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Figure {
    pub median: f64,
    pub lowest: f64,
    pub highest: f64,
}

/// All figures of one part of the benchmark.
#[derive(Debug, Serialize, Deserialize)]
pub struct Results {
    pub machine: Machine,
    pub seconds: u64,
    pub rounds: usize,
    /// By scenario, number of clients (in `growth`: of keys), and name.
    pub scenarios: BTreeMap<String, BTreeMap<u32, BTreeMap<String, Figure>>>,
}

impl Results {
    /// A figure, where it was measured.
    pub fn figure(&self, scenario: &str, clients: u32, name: &str) -> Option<Figure> {
        self.scenarios.get(scenario)?.get(&clients)?.get(name).copied()
    }

    /// A median, where it was measured.
    pub fn median(&self, scenario: &str, clients: u32, name: &str) -> Option<f64> {
        self.figure(scenario, clients, name).map(|figure| figure.median)
    }

    pub fn write(&self, file: &Path) {
        let json = serde_json::to_string_pretty(self).unwrap();
        fs::write(file, json + "\n").unwrap();
    }

    /// Reads the results of an earlier run.
    pub fn read(file: &Path) -> Option<Self> {
        let json = fs::read_to_string(file).ok()?;
        Some(serde_json::from_str(&json).expect("results that this version of the benchmark wrote"))
    }
}

/// The samples of all rounds.
#[derive(Debug, Default)]
pub struct Collected(BTreeMap<(String, u32), Vec<Sample>>);

impl Collected {
    pub fn add(&mut self, scenario: &str, clients: u32, sample: Sample) {
        if let Some(rate) = sample.get("rate") {
            eprintln!("{scenario}, {clients}: {rate:.0} a second");
        }
        self.0.entry((scenario.to_owned(), clients)).or_default().push(sample);
    }

    pub fn results(self, machine: Machine, seconds: u64, rounds: usize) -> Results {
        let mut scenarios = BTreeMap::<_, BTreeMap<_, _>>::new();
        for ((scenario, clients), samples) in self.0 {
            let mut by_name = BTreeMap::<String, Vec<f64>>::new();
            for (name, value) in samples.into_iter().flatten() {
                by_name.entry(name).or_default().push(value);
            }
            let figures =
                by_name.into_iter().map(|(name, values)| (name, figure(values))).collect();
            scenarios.entry(scenario).or_default().insert(clients, figures);
        }
        Results { machine, seconds, rounds, scenarios }
    }
}

fn figure(mut values: Vec<f64>) -> Figure {
    values.sort_by(f64::total_cmp);
    let last = values.len() - 1;
    let median = f64::midpoint(values[last / 2], values[last.div_ceil(2)]);
    Figure { median, lowest: values[0], highest: values[last] }
}

/// A count as a figure.
#[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "nothing here is near 2^53")]
pub fn float(count: impl TryInto<i64>) -> f64 {
    count.try_into().unwrap_or(i64::MAX) as f64
}
