//! Commands that tests submit.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use payonce_idempotency::{
    BatchCommand, BatchEntry, Error, EventCode, Fingerprint, Insert, Operation, Response,
};
use sqlx::{Executor, PgConnection};
use tokio::{sync::Notify, time::sleep};
use uuid::Uuid;

/// The behaviour of a command, besides its effect.
#[derive(Clone, Copy, Debug)]
pub enum Act {
    Succeed,
    Refuse,
    /// Runs this statement in its transaction.
    Run(&'static str),
    /// Keeps its transaction busy until the gate is opened.
    Hold(&'static Gate),
    Swallow,
    Panic,
    ForgetResponse,
    MalformHeader,
}

/// Holds a command in its transaction.
#[derive(Debug, Default)]
pub struct Gate {
    entered: Notify,
    open: AtomicBool,
}

impl Gate {
    /// Waits until a command is in its transaction.
    pub async fn entered(&self) {
        self.entered.notified().await;
    }

    pub fn open(&self) {
        self.open.store(true, Ordering::Relaxed);
    }

    /// In short statements: PostgreSQL ends a transaction that stands still, and a statement that is long.
    async fn pass(&self, conn: &mut PgConnection) -> Result<(), sqlx::Error> {
        self.entered.notify_one();
        while !self.open.load(Ordering::Relaxed) {
            conn.execute("SELECT").await?;
            sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }
}

pub struct Effect(pub Act);

impl BatchCommand for Effect {
    const OPERATION: Operation = Operation::new("effect");
    const EVENT: Option<EventCode> = Some(EventCode::new(1));

    fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(Self::OPERATION).field("act", format!("{:?}", self.0).as_bytes())
    }

    async fn execute(
        batch: &[BatchEntry<'_, Self>],
        conn: &mut PgConnection,
    ) -> Result<Vec<Response>, Error> {
        let mut responses = Vec::new();
        for BatchEntry { execution, command } in batch {
            sqlx::query("INSERT INTO effects VALUES ($1)")
                .bind(execution.id)
                .execute(&mut *conn)
                .await?;
            let response = Response::new(201, execution.id.to_string());
            match command.0 {
                Act::Succeed => responses.push(response),
                Act::Refuse => responses.push(Response::new(402, "no")),
                Act::Run(sql) => {
                    conn.execute(sql).await?;
                    responses.push(response);
                }
                Act::Hold(gate) => {
                    gate.pass(conn).await?;
                    responses.push(response);
                }
                Act::Swallow => {
                    let _ = conn.execute("SELECT 1 / 0").await;
                    responses.push(response);
                }
                Act::Panic => panic!("a defect, on purpose"),
                Act::ForgetResponse => {}
                Act::MalformHeader => responses.push(response.with_header("a", "b\r\nc: d")),
            }
        }
        Ok(responses)
    }
}

/// A second type of command in the same engine, whose whole effect is one INSERT: this one.
pub struct Other(pub &'static str);

/// As it should be.
pub const INSERT_OTHERS: &str = "INSERT INTO effects SELECT execution_id FROM claimed";

impl BatchCommand for Other {
    const OPERATION: Operation = Operation::new("other");

    fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(Self::OPERATION)
    }

    fn insert(batch: &[BatchEntry<'_, Self>]) -> Result<Option<Insert>, Error> {
        let sql = batch.first().map_or(INSERT_OTHERS, |one| one.command.0);
        assert!(!sql.is_empty(), "a defect, on purpose");
        let responses = batch.iter().map(|_| Response::new(200, "other"));
        Ok(Some(Insert::new(sql).respond(responses.collect())))
    }
}

/// A type with columns of its own, named as the layer's tables name theirs. Its response has this status.
pub struct Labelled(pub u16);

impl BatchCommand for Labelled {
    const OPERATION: Operation = Operation::new("label");
    const EVENT: Option<EventCode> = Some(EventCode::new(2));

    fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(Self::OPERATION)
    }

    fn insert(batch: &[BatchEntry<'_, Self>]) -> Result<Option<Insert>, Error> {
        let statuses = batch.iter().map(|one| i32::from(one.command.0));
        let responses = batch.iter().map(|one| Response::new(one.command.0, "label"));
        let insert = Insert::new(
            "INSERT INTO labels SELECT execution_id, account_id, key, status FROM claimed",
        );
        let insert = insert.column("key", vec!["own"; batch.len()]);
        let insert = insert.column("status", statuses.collect::<Vec<_>>());
        Ok(Some(insert.respond(responses.collect())))
    }
}

/// With so many values for each command.
pub struct Uneven(pub usize);

impl BatchCommand for Uneven {
    const OPERATION: Operation = Operation::new("uneven");

    fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(Self::OPERATION)
    }

    fn insert(batch: &[BatchEntry<'_, Self>]) -> Result<Option<Insert>, Error> {
        let values = batch.iter().map(|one| one.command.0).sum();
        let insert =
            Insert::new("INSERT INTO labels SELECT execution_id, account_id, name FROM claimed");
        let responses = batch.iter().map(|_| Response::new(200, "uneven"));
        Ok(Some(insert.column("name", vec!["own"; values]).respond(responses.collect())))
    }
}

/// A type that says nothing of what it does.
pub struct Idle;

impl BatchCommand for Idle {
    const OPERATION: Operation = Operation::new("idle");

    fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(Self::OPERATION)
    }
}

/// A type that can't even say what it locks.
pub struct Broken;

impl BatchCommand for Broken {
    const OPERATION: Operation = Operation::new("broken");

    fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(Self::OPERATION)
    }

    fn locks(&self) -> Option<Uuid> {
        panic!("a defect, on purpose")
    }
}

/// Fails with this SQLSTATE the first few times, as counted by a sequence, which no rollback undoes.
pub fn failing(times: u32, statement: &str) -> Act {
    Act::Run(
        format!("DO $$ BEGIN IF nextval('attempts') <= {times} THEN {statement}; END IF; END $$")
            .leak(),
    )
}
