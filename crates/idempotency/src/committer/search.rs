//! The search for the commands of a batch that hold up the others.

use std::time::Duration;

use tokio::time::Instant;

/// The number of times that parts may fail before a search is given up in which none succeeded.
const FRUITLESS: u32 = 64;

pub(super) struct Search {
    end: Instant,
    failures: u32,
    succeeded: bool,
}

impl Search {
    /// It is given up after `limit` if no part has succeeded.
    pub(super) fn new(limit: Duration) -> Self {
        Self { end: Instant::now() + limit, failures: 0, succeeded: false }
    }

    pub(super) fn part_failed(&mut self) {
        self.failures += 1;
    }

    pub(super) fn part_succeeded(&mut self) {
        self.succeeded = true;
    }

    /// Returns whether a part succeeded: then single commands fail, and not the database.
    pub(super) fn has_succeeded(&self) -> bool {
        self.succeeded
    }

    /// Returns whether so many parts failed, and none succeeded, that no command is to blame.
    pub(super) fn is_fruitless(&self) -> bool {
        !self.succeeded && (self.failures >= FRUITLESS || Instant::now() >= self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_is_given_up_after_many_failures_unless_a_part_succeeded() {
        let mut search = Search::new(Duration::from_hours(1));
        for _ in 1..FRUITLESS {
            search.part_failed();
        }
        assert!(!search.is_fruitless());
        search.part_failed();
        assert!(search.is_fruitless());
        search.part_succeeded();
        assert!(!search.is_fruitless());
    }

    #[test]
    fn a_search_is_given_up_after_some_time_unless_a_part_succeeded() {
        let mut search = Search::new(Duration::ZERO);
        assert!(search.is_fruitless());
        search.part_succeeded();
        assert!(!search.is_fruitless());
    }
}
