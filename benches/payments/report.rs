//! Tables and pictures of what was measured: `docs/benchmarks/README.md` whole, and the table in the repository's README.

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

use super::{
    comparison::{
        BATCHES, BESIDE_OTHERS, BESIDE_STORM, CEILING, CLIENTS, FIVE, MIX, ONE, PAYONCE, REPLAYS,
        STORM, USUAL,
    },
    growth,
    machine::Machine,
    million,
    plot::Bars,
    results::{Figure, Results},
    scaling,
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
        "# What was measured\n\nMade by `scripts/with-postgres cargo bench --bench payments` (benches/payments/): don't edit. \
         Figures are medians of the rounds, with the lowest and the highest where it says so.\n\n",
    );
    page += &targets_table(comparison.as_ref(), growth.as_ref());
    let folder = repository.join("docs/benchmarks");
    if let Some(comparison) = &comparison {
        page += &comparison_page(comparison);
        draw_comparison(comparison, &folder.join("payments.svg"));
        into_readme(&repository.join("README.md"), &new_payments_table(comparison));
    }
    if let Some(growth) = &growth {
        page += &growth_page(growth);
        draw_growth(growth, &folder.join("growth.svg"));
    }
    page += &scaling.as_ref().map(scaling_page).unwrap_or_default();
    fs::write(folder.join("README.md"), &page).unwrap();
    page
}

/// A table in Markdown.
fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = format!("| {} |\n|{}\n", head.join(" | "), "---|".repeat(head.len()));
    for row in rows {
        let _ = writeln!(table, "| {} |", row.join(" | "));
    }
    table + "\n"
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.digits$}"))
}

fn spread(figure: Option<Figure>) -> String {
    figure.map_or_else(
        || "–".to_owned(),
        |Figure { median, lowest, highest }| format!("{median:.0} ({lowest:.0}–{highest:.0})"),
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

fn describe(results: &Results) -> String {
    let Machine { cores, processor, memory_gib, system, postgresql, settings, payonce } =
        &results.machine;
    let settings: Vec<String> =
        settings.iter().map(|(name, value)| format!("`{name}` {value}")).collect();
    let durable = if results.machine.is_durable() { "durable" } else { "**not durable**" };
    format!(
        "{cores} cores (model: {processor}), {memory_gib} GiB, {system}, which load, server and database share. PostgreSQL \
         {postgresql}, {durable}: {}. payonce {payonce}. {} rounds of {} s.\n\n",
        settings.join(", "),
        results.rounds,
        results.seconds
    )
}

/// The table that README.md shows, too.
fn new_payments_table(results: &Results) -> String {
    let rows = CLIENTS.map(|clients| {
        let rate = |scenario| results.median(scenario, clients, "rate");
        let times = |other| Some(rate(PAYONCE)? / rate(other)?);
        let mut row = vec![clients.to_string()];
        row.extend([PAYONCE, USUAL, FIVE, ONE].map(|scenario| number(rate(scenario), 0)));
        row.extend([USUAL, FIVE, ONE].map(|other| number(times(other), 1)));
        row
    });
    table(
        &[
            "clients",
            "payonce",
            "usual design",
            "pgbench, 5 statements",
            "pgbench, 1 statement",
            "× usual",
            "× pgbench 5",
            "× pgbench 1",
        ],
        rows,
    )
}

fn comparison_page(results: &Results) -> String {
    let all = [PAYONCE, REPLAYS, MIX, USUAL, FIVE, ONE];
    let by_clients =
        |name: &'static str, show: fn(Option<Figure>) -> String, scenarios: &[&str]| {
            let rows = scenarios.iter().map(|scenario| {
                let figures = CLIENTS.map(|clients| show(results.figure(scenario, clients, name)));
                [(*scenario).to_owned()].into_iter().chain(figures).collect()
            });
            table(&["clients", "1", "8", "64", "256"], rows.collect::<Vec<_>>())
        };
    let milliseconds = |figure: Option<Figure>| number(figure.map(|figure| figure.median), 2);
    let mut page = format!("## Side by side\n\n{}", describe(results));
    page += "The usual design is one pooled transaction a request: BEGIN, claim, insert, update, COMMIT, in the same framework, \
             as a process of its own, with a pool of 16. pgbench sends the same statements without HTTP. All keep the same \
             columns with the same indexes; the usual design keeps the answer in the key's row, payonce in a table of its \
             own. Each run has a fresh database.\n\nRequests a second:\n\n";
    page += &by_clients("rate", spread, &all);
    page += "![New payments a second](payments.svg)\n\n";
    for (name, title) in
        [("p50_ms", "p50"), ("p95_ms", "p95"), ("p99_ms", "p99"), ("mean_ms", "average")]
    {
        let scenarios = if name == "mean_ms" { &all[..] } else { &all[..4] };
        let _ =
            write!(page, "Latency, {title}, ms:\n\n{}", by_clients(name, milliseconds, scenarios));
    }
    page += "wrk and pgbench are closed loops: a client waits for its answer before it sends the next request. So the \
             percentiles are what such clients see, not what arrivals at a fixed rate would. pgbench tells averages only.\n\n";
    page + &costs(results) + &storm(results) + &a_million(results)
}

fn costs(results: &Results) -> String {
    let rows = [PAYONCE, REPLAYS, USUAL, FIVE, ONE].iter().flat_map(|scenario| {
        [1, 64, 256].map(|clients| {
            let median = |name| results.median(scenario, clients, name);
            let round_trips = results.median(scenario, 0, "round_trips").filter(|_| clients == 64);
            vec![
                (*scenario).to_owned(),
                clients.to_string(),
                number(median("server_cpu_us"), 0),
                number(median("database_cpu_us"), 0),
                number(median("wal_bytes"), 0),
                number(median("commits"), 3),
                number(round_trips, 2),
                number(median("memory_mib"), 0),
            ]
        })
    });
    let head = [
        "",
        "clients",
        "server, µs",
        "database, µs",
        "log, bytes",
        "commits",
        "round trips",
        "memory, MiB",
    ];
    let ceiling = BATCHES.map(|batch| {
        let median = |name| number(results.median(CEILING, batch, name), 0);
        let rate = spread(results.figure(CEILING, batch, "rate"));
        let share = |clients| {
            Some(
                results.median(PAYONCE, clients, "rate")?
                    / results.median(CEILING, batch, "rate")?,
            )
        };
        vec![
            batch.to_string(),
            rate,
            median("database_cpu_us"),
            median("wal_bytes"),
            number(share(batch), 2),
        ]
    });
    format!(
        "## What a request costs\n\nProcessor time of the server and of all of PostgreSQL, write-ahead log (without page \
         images: there is a checkpoint before each run, and tables are empty), transactions committed, and round trips to \
         the database, each a request; the most memory that the server had resident.\n\n{}\
         PostgreSQL's limit for payonce's rows: one connection that inserts full batches, without HTTP, locks and waiting:\n\n{}",
        table(&head, rows),
        table(
            &[
                "batch",
                "payments a second",
                "database, µs",
                "log, bytes",
                "payonce's share at as many clients"
            ],
            ceiling
        ),
    )
}

fn storm(results: &Results) -> String {
    let row = |title: &str, scenario, clients| {
        let median = |name, digits| number(results.median(scenario, clients, name), digits);
        vec![
            title.to_owned(),
            median("rate", 0),
            median("p50_ms", 2),
            median("p99_ms", 2),
            median("rate_of_others", 0),
        ]
    };
    let rows = [
        row("alone", PAYONCE, 64),
        row("beside 64 clients that all send one key", BESIDE_STORM, STORM),
        row("beside 64 clients with keys of their own", BESIDE_OTHERS, STORM),
    ];
    let head = [
        "64 clients with new payments",
        "payments a second",
        "p50, ms",
        "p99, ms",
        "the others' requests a second",
    ];
    format!(
        "## A storm on one key\n\nThe storm's key is another each second.\n\n{}",
        table(&head, rows)
    )
}

fn a_million(results: &Results) -> String {
    let get = |name: &str| results.median(million::SCENARIO, million::CLIENTS, name);
    let Some(payments) = get("payments") else { return String::new() };
    let scenario = &results.scenarios[million::SCENARIO][&million::CLIENTS];
    let sizes = scenario.iter().filter_map(|(name, figure)| {
        Some(vec![name.strip_prefix("bytes of ")?.to_owned(), number(Some(figure.median), 0)])
    });
    format!(
        "## A million payments\n\n{payments:.0} payments of 256 clients to one server: {} a second. It had {} MiB resident \
         after the first seconds, and {} MiB at the end. What a payment with a random key then takes on disk:\n\n{}",
        number(get("rate"), 0),
        number(get("memory_first_mib"), 1),
        number(get("memory_last_mib"), 1),
        table(&["table or index", "bytes a payment"], sizes)
    )
}

fn growth_page(results: &Results) -> String {
    let scenarios = [growth::RANDOM, growth::ORDERED];
    let rows = scenarios.iter().flat_map(|scenario| {
        results.scenarios[*scenario].keys().map(|keys| {
            let median = |name, digits| number(results.median(scenario, *keys, name), digits);
            let rate = |keys| results.median(scenario, keys, "rate");
            vec![
                (*scenario).to_owned(),
                keys.to_string(),
                spread(results.figure(scenario, *keys, "rate")),
                number(rate(*keys).zip(rate(0)).map(|(rate, empty)| rate / empty), 2),
                median("p50_ms", 2),
                median("p99_ms", 2),
                median("wal_bytes", 0),
                median("swept", 0),
            ]
        })
    });
    let head = [
        "",
        "keys before",
        "payments a second",
        "of the rate with none",
        "p50, ms",
        "p99, ms",
        "log, bytes",
        "answers swept a run",
    ];
    format!(
        "## With many keys\n\n{}New payments of 64 clients beside tables filled with random keys, while the sweeper deletes \
         expired answers. The log counts page images: each run begins with a checkpoint, after which every page is \
         written whole once.\n\n{}![With many keys](growth.svg)\n\n",
        describe(results),
        table(&head, rows)
    )
}

fn scaling_page(results: &Results) -> String {
    let rows = scaling::CLIENTS.iter().flat_map(|clients| {
        let rate = |name| results.median(name, *clients, "rate");
        scaling::SHAPES.iter().map(move |shape| {
            let times = rate(shape.name)
                .zip(rate(scaling::SHAPES[0].name))
                .map(|(rate, first)| rate / first);
            let median = |name, digits| number(results.median(shape.name, *clients, name), digits);
            vec![
                shape.name.to_owned(),
                clients.to_string(),
                spread(results.figure(shape.name, *clients, "rate")),
                number(times, 2),
                median("p99_ms", 2),
                median("database_cpu_us", 0),
                median("wal_bytes", 0),
            ]
        })
    });
    let head = [
        "",
        "clients",
        "payments a second",
        "× the first",
        "p99, ms",
        "database, µs",
        "log, bytes",
    ];
    format!("## Other shapes\n\n{}{}", describe(results), table(&head, rows))
}

fn draw_comparison(results: &Results, file: &Path) {
    let names = [
        (PAYONCE, "payonce"),
        (USUAL, "usual design"),
        (FIVE, "pgbench, five statements"),
        (ONE, "pgbench, one statement"),
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
    let series = [growth::RANDOM, growth::ORDERED].map(|scenario| {
        (scenario, sizes.iter().map(|keys| results.figure(scenario, *keys, "rate")).collect())
    });
    Bars {
        title: "New payments a second of 64 clients, the sweeper at work",
        groups: &sizes.iter().map(ToString::to_string).collect::<Vec<_>>(),
        below: "keys in the tables before",
        series: series.to_vec(),
    }
    .draw(file);
}

fn into_readme(file: &Path, table: &str) {
    let readme = fs::read_to_string(file).unwrap();
    let (begin, end) = MARKERS;
    let parts =
        readme.split_once(begin).and_then(|(before, rest)| Some((before, rest.split_once(end)?.1)));
    let (before, after) = parts.expect("README.md has the benchmark's markers");
    fs::write(file, format!("{before}{begin}\n{table}{end}{after}")).unwrap();
}
