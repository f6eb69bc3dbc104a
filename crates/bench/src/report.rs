//! Tables and pictures of what was measured: `docs/benchmarks/README.md` whole, and the table in the repository's README.

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

use super::{
    comparison::{BARE, CEILING, CLIENTS, FIVE, ONE, PAYONCE, USUAL},
    growth, pages,
    plot::Bars,
    results::{Figure, Results},
    targets::{self, Bound},
};

/// What stands between these in README.md is made here.
const MARKERS: (&str, &str) = ("<!-- benchmark: begin -->", "<!-- benchmark: end -->");

/// Where a part's figures lie.
pub fn file(repository: &Path, part: &str) -> PathBuf {
    repository.join("docs/benchmarks").join(format!("{part}.json"))
}

/// Writes all that can be made of what was measured so far, and returns the page.
pub fn write(repository: &Path) -> String {
    let read = |part| Results::read(&file(repository, part));
    let (comparison, growth, scaling) = (read("comparison"), read("growth"), read("scaling"));
    let mut page = String::from(
        "# What was measured\n\nMade by `scripts/with-postgres cargo run --release -p payonce-bench` (crates/bench): don't edit. \
         Figures are medians of the rounds, with the lowest and the highest where it says so.\n\n",
    );
    page += &targets_table(comparison.as_ref(), growth.as_ref());
    let folder = repository.join("docs/benchmarks");
    if let Some(comparison) = &comparison {
        page += &pages::comparison(comparison);
        draw_comparison(comparison, &folder.join("payments.svg"));
        into_readme(&repository.join("README.md"), &pages::summary(comparison));
    }
    if let Some(growth) = &growth {
        page += &pages::growth(growth);
        draw_growth(growth, &folder.join("growth.svg"));
    }
    page += &scaling.as_ref().map(pages::scaling).unwrap_or_default();
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
pub fn whole(count: f64) -> String {
    let digits = format!("{count:.0}");
    let grouped = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy);
    grouped.collect::<Vec<_>>().join("\u{a0}")
}

pub fn spread(figure: Option<Figure>) -> String {
    figure.map_or_else(
        || "–".to_owned(),
        |Figure { median, lowest, highest }| {
            format!("{} ({}–{})", whole(median), whole(lowest), whole(highest))
        },
    )
}

fn targets_table(comparison: Option<&Results>, growth: Option<&Results>) -> String {
    let rows = targets::all(comparison, growth).into_iter().map(|target| {
        let bound = match target.bound {
            Bound::AtLeast(bound) => format!("at least {bound}"),
            Bound::AtMost(bound) => format!("at most {bound}"),
        };
        let met = match target.is_met() {
            None => "not measured",
            Some(true) => "met",
            Some(false) => "**not met**",
        };
        vec![target.what.to_owned(), bound, number(target.measured, 2), met.to_owned()]
    });
    format!("## Targets\n\n{}", table(&["", "target", "measured", ""], rows))
}

fn draw_comparison(results: &Results, file: &Path) {
    let names = [
        (PAYONCE, "payonce"),
        (USUAL, "usual design"),
        (FIVE, "pgbench, five statements"),
        (ONE, "pgbench, one statement"),
        (CEILING, "one connection, full batches, no HTTP"),
        (BARE, BARE),
    ];
    let series = names.map(|(scenario, name)| {
        (name, CLIENTS.map(|clients| results.figure(scenario, clients, "rate")).to_vec())
    });
    Bars {
        title: "New payments a second, each committed durably",
        groups: &CLIENTS.map(|clients| clients.to_string()),
        below: "clients",
        series: series.to_vec(),
    }
    .draw(file);
}

fn draw_growth(results: &Results, file: &Path) {
    let sizes: Vec<u32> = results.scenarios[growth::RANDOM].keys().copied().collect();
    let before = |keys| pages::count(results.median(growth::RANDOM, keys, "keys_before"));
    let series = [growth::RANDOM, growth::ORDERED].map(|scenario| {
        (scenario, sizes.iter().map(|keys| results.figure(scenario, *keys, "rate")).collect())
    });
    Bars {
        title: "New payments a second of 64 clients, the sweeper at work",
        groups: &sizes.iter().map(|keys| before(*keys)).collect::<Vec<_>>(),
        below: "keys in the tables before, in the middle of the rounds",
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
