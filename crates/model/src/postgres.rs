//! The transactions and snapshots of PostgreSQL.

/// The id of a transaction (`xid8`), from 1.
pub(crate) type Xid = usize;

/// `pg_current_snapshot()`: a transaction is visible if it was committed before the snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Snapshot {
    /// One more than the highest xid that had ended. Higher xids may be in use already.
    xmax: Xid,
    /// The lower xids that had not ended.
    xip: Vec<Xid>,
}

impl Snapshot {
    /// The rule that finds rows which a snapshot had not seen is the opposite: `xid >= xmax OR xid = ANY (xip)`.
    pub(crate) fn sees(&self, xid: Xid) -> bool {
        xid < self.xmax && !self.xip.contains(&xid)
    }

    pub(crate) fn is_in_progress(&self, xid: Xid) -> bool {
        self.xip.contains(&xid)
    }
}

/// The transactions of writers. A transaction becomes visible and releases its locks in one step: PostgreSQL releases
/// locks after the transaction has become visible.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Transactions {
    last_assigned: Xid,
    last_ended: Xid,
    /// In ascending order.
    running: Vec<Xid>,
}

impl Transactions {
    pub(crate) fn begin(&mut self) -> Xid {
        self.last_assigned += 1;
        self.running.push(self.last_assigned);
        self.last_assigned
    }

    pub(crate) fn end(&mut self, xid: Xid) {
        self.running.retain(|running| *running != xid);
        self.last_ended = self.last_ended.max(xid);
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let xmax = self.last_ended + 1;
        Snapshot { xmax, xip: self.running.iter().copied().filter(|xid| *xid < xmax).collect() }
    }
}
