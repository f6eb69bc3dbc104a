//! The parts of the page: what was measured, in tables.

use std::fmt::Write;

use super::{
    comparison::{
        AUTHENTICATED, BARE, BATCHES, BESIDE_OTHERS, BESIDE_STORM, CEILING, CLIENTS, FIRST, FIVE,
        MIX, ONE, PAYONCE, REPLAYS, STORM, USUAL,
    },
    growth, million,
    report::{number, spread, table, whole},
    results::{Figure, Results, float},
    scaling,
};

pub fn comparison(results: &Results) -> String {
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
    let mut page = format!("## Side by side\n\n{}{}", described(results), new_payments(results));
    page += "The usual design is one pooled transaction a request: BEGIN, claim, insert, update, COMMIT, in the same framework, \
             as a process of its own, with a pool of sqlx's of 16, which sends a ping after each. pgbench sends the same statements without HTTP. All keep the same \
             columns with the same indexes; the usual design keeps the answer in the key's row, payonce in a table of its \
             own. Each run has a fresh database.\n\nRequests a second:\n\n";
    page += &by_clients("rate", spread, &all);
    page += "Replays are of 10 000 keys at random, stored before the server was started: each is looked up in the database.\n\n\
             ![New payments a second](payments.svg)\n\n";
    for (name, title) in [("p50_ms", "p50"), ("p95_ms", "p95"), ("p99_ms", "p99")] {
        let by_clients = by_clients(name, milliseconds, &all[..4]);
        let _ = write!(page, "Latency, {title}, ms:\n\n{by_clients}");
    }
    page += "wrk and pgbench are closed loops: a client waits for its answer before it sends the next request. So \
             clients divided by their rate are the average latency. wrk's percentiles are on the high side of what such clients see: \
             it counts an answer that took twice the average or more several times, for requests that could have come \
             meanwhile. pgbench tells averages only.\n\n";
    page + &costs(results)
        + &limits(results)
        + &storm(results)
        + &accounts(results)
        + &a_million(results)
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
    format!(
        "## What a request costs\n\nProcessor time of the server and of all of PostgreSQL, write-ahead log (without page \
         images: there is a checkpoint before each run, and tables are empty), transactions committed, and round trips to \
         the database, each a request; the most memory that the server had resident. The usual design writes one row and \
         one index entry less, and one version of a row more.\n\n{}",
        table(&head, rows)
    )
}

/// What these cores can do at most, in two steps: without HTTP, and with it.
fn limits(results: &Results) -> String {
    let rows = BATCHES.iter().flat_map(|size| {
        [CEILING, BARE, PAYONCE].map(|scenario| {
            let median = |scenario, name| results.median(scenario, *size, name);
            let share = |of| median(scenario, "rate").zip(median(of, "rate")).map(|(a, b)| a / b);
            vec![
                scenario.to_owned(),
                size.to_string(),
                spread(results.figure(scenario, *size, "rate")),
                number(share(CEILING), 2),
                number(share(BARE).filter(|_| scenario == PAYONCE), 2),
                number(median(scenario, "load_cpu_us"), 0),
                number(median(scenario, "server_cpu_us"), 0),
                number(median(scenario, "database_cpu_us"), 0),
                number(of_the_cores(results, scenario, *size), 2),
                number(median(scenario, "wal_bytes"), 0),
            ]
        })
    });
    let head = [
        "",
        "batch, or clients",
        "payments a second",
        "of full batches",
        "of that behind HTTP",
        "load, µs",
        "server, µs",
        "database, µs",
        "of the cores' time",
        "log, bytes",
    ];
    format!(
        "## The limits\n\nOf payonce's rows: one connection that inserts full batches, each in one statement, without HTTP, locks, \
         look-ups and waiting. And the same behind HTTP: the same framework, with as many threads, and batches chosen as payonce \
         chooses them; it answers when the batch is committed, and does nothing else: it knows no key that is used again, no \
         error, no log, no account. That is what payonce's design can do on these cores for payments by HTTP; how much \
         payonce is slower is what its promises cost. Load, server and database share the cores: \
         what the three take of them for a payment bounds how many there can be, even if nothing ever waited for the log's disk or \
         for each other.\n\n{}",
        table(&head, rows)
    )
}

/// What load, server and database together had of the cores' time, where all three were measured.
fn of_the_cores(results: &Results, scenario: &str, clients: u32) -> Option<f64> {
    let median = |name| results.median(scenario, clients, name);
    let payment = median("load_cpu_us")? + median("server_cpu_us")? + median("database_cpu_us")?;
    Some(payment * median("rate")? / 1e6 / float(results.machine.cores))
}

fn storm(results: &Results) -> String {
    let row = |title: &str, scenario, clients| {
        let get = |name| results.median(scenario, clients, name);
        vec![
            title.to_owned(),
            count(get("rate")),
            number(get("p50_ms"), 2),
            number(get("p99_ms"), 2),
            count(get("rate_of_others")),
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
        "## A million payments\n\n{} payments of 256 clients to one server: {} a second. It had {} MiB resident \
         after a tenth of them, {} MiB after half, and {} MiB at the end. What a payment with a random key then takes on disk:\n\n{}",
        whole(payments),
        count(get("rate")),
        number(get("memory_tenth_mib"), 1),
        number(get("memory_half_mib"), 1),
        number(get("memory_last_mib"), 1),
        table(&["table or index", "bytes a payment"], sizes)
    )
}

pub fn growth(results: &Results) -> String {
    let scenarios = [
        (growth::RANDOM, growth::RANDOM_SWEEPING),
        (growth::RANDOM, growth::RANDOM_AT_FIRST),
        (growth::RANDOM, growth::RANDOM),
        (growth::RANDOM_LIMIT, growth::RANDOM_LIMIT),
        (growth::ORDERED, growth::ORDERED_SWEEPING),
        (growth::ORDERED, growth::ORDERED_AT_FIRST),
        (growth::ORDERED, growth::ORDERED),
    ];
    let rows = scenarios.iter().flat_map(|(with_none, scenario)| {
        // PAYONCE_BENCH_GROWTH may leave some of it out.
        let sizes = results.scenarios.get(*scenario).into_iter().flat_map(|sizes| sizes.keys());
        sizes.map(|keys| {
            let figure = |name| results.figure(scenario, *keys, name);
            let median = |name, digits| number(results.median(scenario, *keys, name), digits);
            let rate = results.median(scenario, *keys, "rate");
            let times =
                rate.zip(results.median(with_none, 0, "rate")).map(|(rate, none)| rate / none);
            vec![
                (*scenario).to_owned(),
                spread(figure("keys_before")),
                spread(figure("rate")),
                number(times, 2),
                median("p50_ms", 2),
                median("p99_ms", 2),
                median("database_cpu_us", 0),
                median("wal_bytes", 0),
                count(results.median(scenario, *keys, "swept")),
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
        "database, µs",
        "log, bytes",
        "answers swept a run",
    ];
    let (seconds, between) = (results.seconds, growth::BETWEEN * results.seconds);
    format!(
        "## With many keys\n\n{}{} New payments of 64 clients beside tables \
         filled with random keys, beside a second server's sweeper, which each time has about as many expired answers to go through as come in. \
         Indexes that grow all over were read into memory before. Each run begins with a \
         checkpoint, after which every page is written to the log whole once. It is measured for {seconds} s right after that, and for as \
         long again {between} s later, when most of that is over, which is how things are until the next checkpoint, half an hour later; \
         empty tables, once, and once more with as much to sweep: that part of the difference is not of the keys. What a run adds stays in the \
         tables. The limit, one connection's full batches without HTTP, follows each time: how much it loses is PostgreSQL's part.\n\n{}![With many keys](growth.svg)\n\n",
        described(results),
        match results.machine.settings.get("shared_buffers").map(String::as_str) {
            Some("128MB") => "PostgreSQL is as it comes, which is for trying things out.",
            _ => "PostgreSQL is set up as docs/operations/postgresql.md advises for such tables.",
        },
        table(&head, rows)
    )
}

pub fn scaling(results: &Results) -> String {
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
    format!("## Other shapes\n\n{}{}", described(results), table(&head, rows))
}

/// What came after the first migrations.
fn accounts(results: &Results) -> String {
    let rows = [FIRST, AUTHENTICATED].map(|name| {
        let times = results.median(name, 64, "rate").zip(results.median(FIRST, 64, "rate"));
        vec![
            name.to_owned(),
            spread(results.figure(name, 64, "rate")),
            number(times.map(|(rate, first)| rate / first), 3),
            number(results.median(name, 64, "p99_ms"), 2),
        ]
    });
    let head = ["64 clients", "payments a second", "× the first", "p99, ms"];
    format!(
        "## Accounts, currencies, refunds and lists\n\nThe same server; what differs are the tables, and \
         whether each request shows an API key. All tables have what made them faster since, too: a plainer check of the \
         currency (0009), no time in the answer's row (0011), the key before its account in the index (0013).\n\n{}",
        table(&head, rows)
    )
}

/// A count, where it was measured.
pub fn count(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), whole)
}

fn described(results: &Results) -> String {
    let Results { machine, rounds, seconds, .. } = results;
    format!("{} {rounds} rounds of {seconds} s.\n\n", machine.sentences())
}

/// What README.md shows.
pub fn summary(results: &Results) -> String {
    let (machine, rounds) = (&results.machine, results.rounds);
    format!(
        "New payments a second on {} cores that load, server and PostgreSQL {} share, each committed durably; medians of \
         {rounds} interleaved rounds:\n\n{}",
        machine.cores,
        machine.postgresql,
        new_payments(results)
    )
}

fn new_payments(results: &Results) -> String {
    let rows = CLIENTS.map(|clients| {
        let rate = |scenario| results.median(scenario, clients, "rate");
        let times = |other| Some(rate(PAYONCE)? / rate(other)?);
        let mut row = vec![clients.to_string()];
        row.extend([PAYONCE, USUAL, FIVE, ONE].map(|scenario| count(rate(scenario))));
        row.extend([USUAL, FIVE, ONE].map(|other| number(times(other), 1)));
        row.extend(
            [PAYONCE, USUAL].map(|scenario| number(results.median(scenario, clients, "p99_ms"), 1)),
        );
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
            "p99, ms: payonce",
            "p99, ms: usual",
        ],
        rows,
    )
}
