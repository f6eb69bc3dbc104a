//! Recovery from a failed transaction: the whole failure table.

use std::time::Duration;

use log::{debug, error, warn};
use tokio::time::{Instant, sleep};

use super::{Committer, Role, Search, connection::Unknown, failed::Failed};
use crate::{
    Failure,
    error::Remedy,
    observer::{Event, Step},
    queue::{Job, Obstacle},
    sql::TableLock,
};

/// After how many lost connections a batch is halved, and after how many a single command is quarantined.
const LOSSES: (u32, u32) = (2, 4);

/// The same for conflicts with other transactions.
const CONFLICTS: (u32, u32) = (4, 8);

/// The interval at which the log names the session that has locked a table.
const LOCK_LOGGED_EVERY: Duration = Duration::from_secs(10);

/// A part of a batch whose transaction failed, and what is known of it.
#[derive(Debug, Clone, Copy)]
struct Part {
    commands: usize,
    /// True if it runs in the quarantine.
    quarantined: bool,
    /// The most connections that one of its commands has lost.
    losses: u32,
    /// The most conflicts that one of them met in a row.
    conflicts: u32,
    /// True if many parts of its batch failed and none succeeded, so that no command is to blame.
    fruitless: bool,
}

/// The way a failed part is handled.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Action {
    RunAgain,
    Halve,
    /// Halve it and run the parts with short time-outs, since all others wait meanwhile.
    Search,
    /// Run each of its commands where it holds up no other.
    Quarantine(Obstacle),
    /// All its commands fail.
    Fail(Failure),
}

/// The failure table. A command that is to blame fails with `failure`.
fn decide(part: Part, remedy: Remedy, failure: Failure) -> Action {
    let alone = part.commands <= 1;
    let halved = |count: u32, (halve, quarantine): (u32, u32), obstacle| match alone {
        _ if count < halve => Action::RunAgain,
        false => Action::Halve,
        true if count < quarantine => Action::RunAgain,
        true => Action::Quarantine(obstacle),
    };
    match remedy {
        Remedy::Isolate if alone => Action::Fail(failure),
        Remedy::Isolate => Action::Halve,
        Remedy::Repeat => halved(part.conflicts, CONFLICTS, Obstacle::Conflict),
        Remedy::Reconnect => halved(part.losses, LOSSES, Obstacle::ConnectionLost),
        Remedy::AwaitServer => Action::RunAgain,
        Remedy::Quarantine if alone || part.fruitless => Action::Quarantine(Obstacle::Locked),
        Remedy::Refuse if part.quarantined || part.fruitless => Action::Fail(failure),
        Remedy::Refuse if alone => Action::Quarantine(Obstacle::NoDatabase),
        Remedy::Quarantine | Remedy::Refuse => Action::Search,
    }
}

impl Committer {
    /// Handles a part whose transaction failed.
    pub(crate) async fn recover_from(&mut self, mut commands: Vec<Job>, failed: &Failed) {
        let remedy = failed.remedy();
        for job in &mut commands {
            job.losses += u32::from(remedy == Remedy::Reconnect);
            job.conflicts += u32::from(remedy == Remedy::Repeat);
            if failed.is_in_doubt() {
                self.queue.put_in_doubt(job);
            }
        }
        self.queue.observe(Event::Failed(remedy));
        self.queue.rolled_back(&commands);
        if let Some(search) = &mut self.search {
            search.part_failed();
        }
        let part = Part {
            commands: commands.len(),
            quarantined: matches!(self.role, Role::Quarantine { .. }),
            losses: commands.iter().map(|job| job.losses).max().unwrap_or(0),
            conflicts: commands.iter().map(|job| job.conflicts).max().unwrap_or(0),
            fruitless: self.search.as_ref().is_some_and(Search::is_fruitless),
        };
        let action = decide(part, remedy, failed.of_command());
        log(&commands, part, failed, &action);
        match action {
            Action::RunAgain => self.parts.push(commands),
            Action::Halve => self.halve(commands),
            Action::Search => {
                let limit = self.search_limit;
                self.search.get_or_insert_with(|| Search::new(limit));
                self.halve(commands);
            }
            Action::Quarantine(Obstacle::Locked) => self.wait_for_lock(commands, failed).await,
            Action::Quarantine(obstacle) => {
                let known = self.search.as_ref().is_none_or(Search::has_succeeded);
                for job in commands {
                    self.quarantine(job, obstacle, known);
                }
            }
            Action::Fail(failure) => {
                if part.fruitless && remedy == Remedy::Refuse {
                    commands.extend(self.parts.drain(..).flatten());
                }
                for job in commands {
                    self.queue.fail(job, &failure);
                }
            }
        }
        match remedy {
            Remedy::Repeat => sleep(Duration::from_millis(fastrand::u64(0..10))).await,
            Remedy::Reconnect | Remedy::AwaitServer => self.connector.pause().await,
            Remedy::Isolate | Remedy::Quarantine | Remedy::Refuse => {}
        }
    }

    /// The first half is run next, and then the second.
    fn halve(&mut self, mut part: Vec<Job>) {
        let second = part.split_off(part.len().div_ceil(2));
        self.parts.extend([second, part].into_iter().filter(|half| !half.is_empty()));
    }

    /// Quarantines commands that wait for a lock of another session.
    async fn wait_for_lock(&mut self, commands: Vec<Job>, failed: &Failed) {
        if let Role::Main { .. } = self.role {
            self.quarantine_locked(commands, failed);
            return;
        }
        let found = self.connector.locked_table().await;
        if let Ok(Some(lock)) = &found {
            self.report(lock);
        }
        let obstacle = lock_met(&found, failed.step == Some(Step::Claim));
        for job in commands {
            self.delay(job, obstacle);
        }
    }

    /// The same for the main committer, with all other commands that want the same row; after a search in which
    /// no command succeeded, with all of the batch.
    fn quarantine_locked(&mut self, mut commands: Vec<Job>, failed: &Failed) {
        let search = self.search.as_ref();
        let succeeded = search.is_some_and(Search::has_succeeded);
        let known = search.is_none() || succeeded;
        // Other commands claimed their keys, so the table is not locked.
        let obstacle = if failed.step == Some(Step::Claim) && succeeded {
            Obstacle::KeyInFlight
        } else {
            Obstacle::Locked
        };
        if search.is_some_and(Search::is_fruitless) {
            commands.extend(self.parts.drain(..).flatten());
        } else if let Some(row) = commands.first().and_then(|job| job.leader.row) {
            if let Role::Main { quarantine } = &mut self.role {
                quarantine.add_row(row, Obstacle::Locked, Instant::now());
            }
            for part in &mut self.parts {
                commands.extend(part.extract_if(.., |job| job.leader.row == Some(row)));
            }
            self.parts.retain(|part| !part.is_empty());
        }
        for job in commands {
            self.quarantine(job, obstacle, known);
        }
    }

    fn report(&mut self, lock: &TableLock) {
        self.queue.observe(Event::TableLocked);
        let now = Instant::now();
        if self.lock_logged.is_none_or(|last| now >= last + LOCK_LOGGED_EVERY) {
            self.lock_logged = Some(now);
            warn!("{lock}; commands that need it wait, and then fail");
        }
    }

    /// Runs a command again where it can't hold up others. `known`: when its key comes again, it is quarantined at
    /// once. Not after a search in which no command succeeded.
    fn quarantine(&mut self, job: Job, obstacle: Obstacle, known: bool) {
        match &mut self.role {
            Role::Main { quarantine } => {
                if known {
                    quarantine.add_key(job.leader.scope.clone(), obstacle, Instant::now());
                }
                quarantine.admit(&self.queue, job, obstacle);
            }
            Role::Quarantine { .. } => self.delay(job, obstacle),
        }
    }
}

/// Logs what happened, and what is done about it.
fn log(commands: &[Job], part: Part, failed: &Failed, action: &Action) {
    let remedy = failed.remedy();
    let size = part.commands;
    let first = commands.first().map(|job| &job.leader);
    let (operation, key) =
        first.map_or(("", String::new()), |leader| (leader.operation, leader.scope.to_string()));
    match (remedy, action) {
        (Remedy::Isolate, Action::Fail(_)) => {
            let id = first.map(|leader| leader.execution_id).unwrap_or_default();
            error!("{operation} {id} of key {key} cannot be executed: {failed}");
        }
        (Remedy::Refuse, Action::Fail(_)) => {
            error!("PostgreSQL refused a transaction of {size} commands: {failed}");
        }
        (Remedy::Reconnect, _) => {
            let when = if failed.is_in_doubt() { "during COMMIT" } else { "before COMMIT" };
            warn!("lost the connection {when}, with a transaction of {size} commands: {failed}");
        }
        (Remedy::AwaitServer, _) => {
            warn!("no database to write to, {size} commands wait: {failed}");
        }
        (_, Action::Quarantine(_)) if size == 1 && !part.quarantined => {
            warn!("{operation} of key {key} is quarantined: {failed}");
        }
        _ => debug!(
            "a transaction of {size} commands was rolled back, and runs again ({remedy:?}): {failed}"
        ),
    }
}

/// Says which lock a command met, by what was found out about locked tables.
fn lock_met(found: &Result<Option<TableLock>, Unknown>, while_claiming: bool) -> Obstacle {
    match found {
        // Only a lock on the key itself or on the whole table prevents a claim.
        Ok(None) if while_claiming => Obstacle::KeyInFlight,
        // Nobody may be told that the key is in flight because PostgreSQL could not be asked.
        Err(Unknown) if while_claiming => Obstacle::NoDatabase,
        Ok(_) | Err(Unknown) => Obstacle::Locked,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANY: Part =
        Part { commands: 8, quarantined: false, losses: 0, conflicts: 0, fruitless: false };
    const ALONE: Part = Part { commands: 1, ..MANY };
    const QUARANTINED: Part = Part { quarantined: true, ..ALONE };

    #[track_caller]
    fn assert_decides(remedy: Remedy, part: Part, action: &Action) {
        assert_eq!(decide(part, remedy, Failure::OutOfResources), *action, "{remedy:?}: {part:?}");
    }

    #[test]
    fn a_key_is_in_flight_only_if_postgresql_said_that_no_table_is_locked() {
        assert_eq!(lock_met(&Ok(None), true), Obstacle::KeyInFlight);
        assert_eq!(lock_met(&Err(Unknown), true), Obstacle::NoDatabase);
        assert_eq!(lock_met(&Err(Unknown), false), Obstacle::Locked);
        assert_eq!(lock_met(&Ok(None), false), Obstacle::Locked);
    }

    #[test]
    fn a_command_with_an_error_of_its_own_is_found_by_halves_and_fails() {
        let failed = Action::Fail(Failure::OutOfResources);
        assert_decides(Remedy::Isolate, MANY, &Action::Halve);
        assert_decides(Remedy::Isolate, ALONE, &failed);
        assert_decides(Remedy::Isolate, QUARANTINED, &failed);
    }

    #[test]
    fn a_batch_that_conflicts_again_and_again_is_halved_and_its_one_command_quarantined() {
        let after = |conflicts, part| Part { conflicts, ..part };
        let quarantine = Action::Quarantine(Obstacle::Conflict);
        assert_decides(Remedy::Repeat, after(3, MANY), &Action::RunAgain);
        assert_decides(Remedy::Repeat, after(4, MANY), &Action::Halve);
        assert_decides(Remedy::Repeat, after(7, ALONE), &Action::RunAgain);
        assert_decides(Remedy::Repeat, after(8, ALONE), &quarantine);
        assert_decides(Remedy::Repeat, after(9, QUARANTINED), &quarantine);
    }

    #[test]
    fn a_batch_that_loses_connections_is_halved_and_its_one_command_quarantined() {
        let after = |losses, part| Part { losses, ..part };
        let quarantine = Action::Quarantine(Obstacle::ConnectionLost);
        assert_decides(Remedy::Reconnect, after(1, MANY), &Action::RunAgain);
        assert_decides(Remedy::Reconnect, after(2, MANY), &Action::Halve);
        assert_decides(Remedy::Reconnect, after(3, ALONE), &Action::RunAgain);
        assert_decides(Remedy::Reconnect, after(4, ALONE), &quarantine);
        assert_decides(Remedy::Reconnect, after(5, QUARANTINED), &quarantine);
    }

    #[test]
    fn a_database_that_is_away_is_waited_for_whatever_the_batch() {
        for part in [MANY, ALONE, QUARANTINED] {
            assert_decides(Remedy::AwaitServer, part, &Action::RunAgain);
        }
    }

    #[test]
    fn a_command_that_waits_for_a_lock_is_searched_for_and_quarantined() {
        let quarantine = Action::Quarantine(Obstacle::Locked);
        assert_decides(Remedy::Quarantine, MANY, &Action::Search);
        assert_decides(Remedy::Quarantine, ALONE, &quarantine);
        assert_decides(Remedy::Quarantine, QUARANTINED, &quarantine);
        assert_decides(Remedy::Quarantine, Part { fruitless: true, ..MANY }, &quarantine);
    }

    #[test]
    fn a_command_that_takes_too_much_is_searched_for_and_has_one_more_attempt_alone() {
        let failed = Action::Fail(Failure::OutOfResources);
        let quarantine = Action::Quarantine(Obstacle::NoDatabase);
        assert_decides(Remedy::Refuse, MANY, &Action::Search);
        assert_decides(Remedy::Refuse, ALONE, &quarantine);
        assert_decides(Remedy::Refuse, QUARANTINED, &failed);
        assert_decides(Remedy::Refuse, Part { fruitless: true, ..MANY }, &failed);
    }

    #[test]
    fn halving_always_comes_to_an_end() {
        for remedy in
            [Remedy::Isolate, Remedy::Repeat, Remedy::Reconnect, Remedy::Quarantine, Remedy::Refuse]
        {
            for count in 0..20 {
                let part = Part { losses: count, conflicts: count, ..ALONE };
                let action = decide(part, remedy, Failure::OutOfResources);
                assert!(!matches!(action, Action::Halve | Action::Search), "{remedy:?} {count}");
            }
        }
    }
}
