/// The protocol as payonce follows it, or with one mistake. Each mistake looks reasonable, and each has a
/// counterexample in the tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// The protocol without a mistake.
    Designed,
    /// A reader's cursor is the id of the announcement, which is drawn before COMMIT.
    CursorOnAnnouncements,
    /// A writer draws the position from a sequence, before COMMIT.
    PositionsBeforeCommit,
    /// The sequencer orders announcements by the xid of their transaction.
    OrderByXid,
    /// The sequencer orders announcements by the execution id, which is assigned when the request arrives.
    OrderByExecutionId,
    /// One statement locks and takes, so its snapshot is older than its lock.
    SnapshotBeforeLock,
    /// A server remembers the snapshot of a take that the limit cut off.
    MemoryOfCutTake,
    /// A server remembers the snapshot before its pass is committed.
    MemoryBeforeCommit,
    /// A worker stores its cursor in one transaction and the failures in the next.
    CursorBeforeFailures,
    /// A worker stores without naming the epoch of its lease.
    StoreWithoutEpoch,
    /// A worker starts a call without checking that it still has its lease.
    CallWithoutLease,
}
