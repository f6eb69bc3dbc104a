//! The changes that an endpoint's deliveries have to store, all in one commit.

use std::{collections::BTreeMap, time::Instant};

use super::{cursor::Cursor, facts::Facts};

/// A row of `webhook_failures`.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) facts: Facts,
    pub(super) attempts: u16,
    /// `None`: parked.
    pub(super) due: Option<Instant>,
    pub(super) status: Option<u16>,
    pub(super) error: Option<String>,
}

impl Row {
    /// The row of a failure without an attempt.
    pub(super) fn unattempted(facts: Facts, due: Instant) -> Self {
        Self { facts, attempts: 0, due: Some(due), status: None, error: None }
    }
}

/// Changes of one endpoint. The failures that a cursor passes are stored with it.
#[derive(Debug, Clone, Default)]
pub(super) struct Changes {
    pub(super) first: Option<Cursor>,
    /// The number of the replay, and its cursor.
    pub(super) replay: Option<(i64, Cursor)>,
    /// Rows by position; `None` deletes one.
    pub(super) rows: BTreeMap<i64, Option<Row>>,
}

impl Changes {
    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none() && self.replay.is_none() && self.rows.is_empty()
    }
}
