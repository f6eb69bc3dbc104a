//! The time-outs of a connection, derived from the deadline of a request.

use std::time::Duration;

/// The time that a statement waits for a lock. Keys that other servers are executing are skipped without waiting, so only
/// a session that is not the layer's can hold one.
const LOCK_TIMEOUT: Duration = Duration::from_millis(100);

/// After this time PostgreSQL ends the transaction of a server that hangs, and frees its keys.
const IDLE_IN_TRANSACTION_TIMEOUT: Duration = Duration::from_secs(1);

/// TCP, TLS and a password take time, even if the deadline is shorter.
const SHORTEST_CONNECT: Duration = Duration::from_secs(1);

/// PostgreSQL takes a time-out below a millisecond for none.
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(10);

/// The time-outs of a connection: all below the deadline of a request, except that of connecting.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timeouts {
    pub(super) connect: Duration,
    pub(super) lock: Duration,
    pub(super) idle_in_transaction: Duration,
    pub(super) statement: Duration,
    pub(super) batch: Duration,
    /// Of a statement, while a command is searched for that holds up the others.
    pub(super) search_statement: Duration,
    /// Of a lock, meanwhile.
    pub(super) search_lock: Duration,
}

impl Timeouts {
    pub(super) fn within(deadline: Duration) -> Self {
        Self {
            connect: (deadline / 5).max(SHORTEST_CONNECT),
            lock: LOCK_TIMEOUT.min(deadline / 10),
            idle_in_transaction: IDLE_IN_TRANSACTION_TIMEOUT.min(deadline / 10),
            statement: deadline / 5,
            batch: deadline / 10 * 3,
            search_statement: (deadline / 50).max(SHORTEST_TIMEOUT),
            search_lock: SHORTEST_TIMEOUT,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_claims_its_keys_within_a_deadline_of_its_begin() {
        for millis in [10, 500, 10_000, 3_600_000] {
            let deadline = Duration::from_millis(millis);
            let Timeouts { idle_in_transaction, statement, .. } = Timeouts::within(deadline);
            // PostgreSQL waits for, and executes: locks, deletion of expired keys, claims.
            assert!(3 * (idle_in_transaction + statement) < deadline, "{deadline:?}");
        }
    }
}
