//! Writes `docs/benchmarks/README.md`, its charts, and the table in the repository's README.

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

use super::{
    comparison::{CLIENTS, CRATESTACK, FIVE, FLASK, ONE, PAYONCE, USUAL},
    growth, pages,
    plot::Bars,
    results::{Figure, Results},
};

/// The table in README.md stands between these.
const MARKERS: (&str, &str) = ("<!-- benchmark: begin -->", "<!-- benchmark: end -->");

/// The file of a part's results.
pub fn file(repository: &Path, part: &str) -> PathBuf {
    repository.join("docs/benchmarks").join(format!("{part}.json"))
}

/// Writes the documents from all results so far, and returns the page.
pub fn write(repository: &Path) -> String {
    let read = |part| Results::read(&file(repository, part));
    let mut page = pages::HEAD.to_owned();
    let folder = repository.join("docs/benchmarks");
    if let Some(comparison) = read("comparison") {
        page += &pages::comparison(&comparison);
        draw_comparison(&comparison, &folder.join("payments.svg"));
        into_readme(&repository.join("README.md"), &pages::summary(&comparison));
    }
    if let Some(growth) = read("growth") {
        page += &pages::growth(&growth);
        draw_growth(&growth, &folder.join("growth.svg"));
    }
    page += &read("scaling").as_ref().map(pages::scaling).unwrap_or_default();
    let page = page.trim_end().to_owned() + "\n";
    fs::write(folder.join("README.md"), &page).unwrap();
    page
}

/// A table in Markdown.
pub fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = format!("| {} |\n|{}\n", head.join(" | "), "---|".repeat(head.len()));
    for row in rows {
        let _ = writeln!(table, "| {} |", row.join(" | "));
    }
    table + "\n"
}

pub fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.digits$}"))
}

/// A count, in groups of three digits.
pub fn count(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), whole)
}

/// A count, in groups of three digits.
pub fn whole(count: f64) -> String {
    let digits = format!("{count:.0}");
    let grouped = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy);
    grouped.collect::<Vec<_>>().join("\u{a0}")
}

/// A median with the lowest and the highest round.
pub fn spread(figure: Option<Figure>) -> String {
    figure.map_or_else(
        || "–".to_owned(),
        |Figure { median, lowest, highest }| {
            format!("{} ({}–{})", whole(median), whole(lowest), whole(highest))
        },
    )
}

fn draw_comparison(results: &Results, file: &Path) {
    let series = [PAYONCE, USUAL, CRATESTACK, FLASK, FIVE, ONE].map(|scenario| {
        let figures = CLIENTS.map(|clients| results.figure(scenario, clients, "rate"));
        (scenario, figures.to_vec())
    });
    Bars {
        title: "New payments per second, committed durably",
        groups: &CLIENTS.map(|clients| clients.to_string()),
        below: "clients",
        series: series.to_vec(),
    }
    .draw(file);
}

fn draw_growth(results: &Results, file: &Path) {
    let sizes: Vec<u32> = results.scenarios[growth::RANDOM].keys().copied().collect();
    let before = |keys| count(results.median(growth::RANDOM, keys, "keys_before"));
    let series = [growth::RANDOM, growth::ORDERED].map(|scenario| {
        (scenario, sizes.iter().map(|keys| results.figure(scenario, *keys, "rate")).collect())
    });
    Bars {
        title: "New payments per second of 64 clients, beside a sweeper",
        groups: &sizes.iter().map(|keys| before(*keys)).collect::<Vec<_>>(),
        below: "keys in the tables before the run",
        series: series.to_vec(),
    }
    .draw(file);
}

fn into_readme(file: &Path, summary: &str) {
    let readme = fs::read_to_string(file).unwrap();
    let (begin, end) = MARKERS;
    let parts =
        readme.split_once(begin).and_then(|(before, rest)| Some((before, rest.split_once(end)?.1)));
    let (before, after) = parts.expect("README.md has the benchmark's markers");
    fs::write(file, format!("{before}{begin}\n{summary}{end}{after}")).unwrap();
}
