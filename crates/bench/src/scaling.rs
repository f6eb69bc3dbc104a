//! Partitioned tables, more committers and a second server on the same machine, for docs/operations/scaling.md.

use super::{
    Knobs,
    comparison::stop,
    load::{Load, Requests, together},
    machine::Machine,
    meters::Meters,
    results::{Collected, Results, Sample},
    support::{TestDatabase, binary::Serve},
};

pub const CLIENTS: [u32; 2] = [256, 64];
const PARTITIONS: u32 = 8;

/// A deployment. The others are compared with the first.
pub struct Shape {
    pub name: &'static str,
    servers: u32,
    committers: &'static str,
    partitioned: bool,
}

pub const SHAPES: [Shape; 5] = [
    Shape { name: "one server, one committer", servers: 1, committers: "1", partitioned: false },
    Shape { name: "tables in eight partitions", servers: 1, committers: "1", partitioned: true },
    Shape { name: "two committers", servers: 1, committers: "2", partitioned: false },
    Shape { name: "four committers", servers: 1, committers: "4", partitioned: false },
    Shape { name: "two servers", servers: 2, committers: "1", partitioned: false },
];

pub async fn run(knobs: &Knobs) -> Results {
    let (plain, partitioned) = (TestDatabase::create().await, TestDatabase::create().await);
    partitioned.partition(PARTITIONS).await;
    let machine = Machine::this(&plain).await;
    let mut collected = Collected::default();
    for round in 1..=knobs.rounds {
        eprintln!("round {round} of {}", knobs.rounds);
        for clients in CLIENTS {
            for shape in &SHAPES {
                let template = if shape.partitioned { &partitioned } else { &plain };
                let sample = measure(shape, template, clients, knobs.seconds).await;
                collected.add(shape.name, clients, sample);
            }
        }
    }
    collected.results(machine, knobs.seconds, knobs.rounds)
}

/// Clients, spread evenly over the servers of this shape.
async fn measure(shape: &Shape, template: &TestDatabase, clients: u32, seconds: u64) -> Sample {
    let database = template.copy().await;
    let variables = [("COMMITTERS", shape.committers)];
    let servers: Vec<Serve> =
        (0..shape.servers).map(|_| Serve::start(&database.options, &variables)).collect();
    let meters = Meters::start(&database, None).await;
    let each = clients / shape.servers;
    let loads: Vec<Load> = servers
        .iter()
        .map(|serve| Load::start(serve.address, Requests::New, each, seconds))
        .collect();
    let mut sample = together(loads.into_iter().map(Load::figures).collect());
    meters.stop(&mut sample).await;
    servers.into_iter().for_each(stop);
    sample
}
