//! Divides announcements into runs: the events of one transaction and one account, with consecutive positions.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use chrono::{DateTime, Utc};
use sqlx::FromRow;

use crate::{
    events::{Position, render::unreadable},
    ids::{AccountId, ExecutionId},
};

/// Events of a run at most, so that reading one event never reads many.
const EVENTS_OF_A_RUN: usize = 100;

/// A row of `announcements`.
#[derive(Debug, Clone, FromRow)]
pub(super) struct Announcement {
    pub(super) id: i64,
    pub(super) xid: String,
    pub(super) at: DateTime<Utc>,
    /// One for all, or one for each, as are types.
    account_ids: Vec<AccountId>,
    pub(super) execution_ids: Vec<ExecutionId>,
    types: Vec<i16>,
    /// Seconds since its transaction began.
    age: f64,
}

/// An event of an announcement.
#[derive(Debug, Clone, Copy)]
struct Announced {
    account_id: AccountId,
    subject: ExecutionId,
    event_type: i16,
}

/// A row of `event_runs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) account_id: AccountId,
    pub(super) first_position: Position,
    pub(super) at: DateTime<Utc>,
    /// One for all if they are equal.
    pub(super) types: Vec<i16>,
    pub(super) subjects: Vec<ExecutionId>,
}

impl Announcement {
    pub(super) fn age(&self) -> Duration {
        Duration::try_from_secs_f64(self.age).unwrap_or_default()
    }

    /// The events, in the order in which they were decided.
    fn events(&self) -> Result<impl Iterator<Item = Announced>, sqlx::Error> {
        let count = self.execution_ids.len();
        let fits = |values: usize| values == count || values == 1;
        if !fits(self.account_ids.len()) || !fits(self.types.len()) {
            return Err(unreadable(format!(
                "announcement {} has arrays of other lengths",
                self.id
            )));
        }
        let accounts = self.account_ids.iter().cycle();
        let types = self.types.iter().cycle();
        let events = self.execution_ids.iter().zip(accounts).zip(types);
        Ok(events.map(|((subject, account_id), event_type)| Announced {
            account_id: *account_id,
            subject: *subject,
            event_type: *event_type,
        }))
    }
}

/// The accounts of these announcements.
pub(super) fn accounts(announcements: &[Announcement]) -> Vec<AccountId> {
    let accounts: BTreeSet<AccountId> =
        announcements.iter().flat_map(|one| one.account_ids.iter().copied()).collect();
    accounts.into_iter().collect()
}

/// Gives each event the position after the last one of its account, of which `last` keeps count.
pub(super) fn runs(
    announcements: &[Announcement],
    last: &mut HashMap<AccountId, Position>,
) -> Result<Vec<Run>, sqlx::Error> {
    let mut runs = Vec::with_capacity(announcements.len());
    for announcement in announcements {
        let mut accounts: BTreeMap<AccountId, Vec<Announced>> = BTreeMap::new();
        for event in announcement.events()? {
            accounts.entry(event.account_id).or_default().push(event);
        }
        for (account_id, events) in accounts {
            let last = last.entry(account_id).or_default();
            for events in events.chunks(EVENTS_OF_A_RUN) {
                let first_position = last.plus(1);
                *last = events.iter().fold(*last, |last, _| last.plus(1));
                runs.push(Run {
                    account_id,
                    first_position,
                    at: announcement.at,
                    types: one_if_equal(events.iter().map(|event| event.event_type).collect()),
                    subjects: events.iter().map(|event| event.subject).collect(),
                });
            }
        }
    }
    Ok(runs)
}

fn one_if_equal(mut types: Vec<i16>) -> Vec<i16> {
    if types.iter().all(|one| Some(one) == types.first()) {
        types.truncate(1);
    }
    types
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn account(number: u128) -> AccountId {
        Uuid::from_u128(number).into()
    }

    /// An announcement of executions with these numbers.
    fn announcement(accounts: &[u128], executions: &[u128], types: &[i16]) -> Announcement {
        Announcement {
            id: 1,
            xid: "1".to_owned(),
            at: DateTime::UNIX_EPOCH,
            age: 0.0,
            account_ids: accounts.iter().copied().map(account).collect(),
            execution_ids: executions.iter().map(|one| Uuid::from_u128(*one).into()).collect(),
            types: types.to_vec(),
        }
    }

    /// The account, first position, types and subjects of each run, where the last position of account 1 is 7.
    fn given(announcements: &[Announcement]) -> Vec<(u128, i64, Vec<i16>, Vec<u128>)> {
        let mut last = HashMap::from([(account(1), Position::new(7).unwrap())]);
        let number = |id: Uuid| id.as_u128();
        let shown = |run: Run| {
            let subjects = run.subjects.into_iter().map(|one| number(one.into())).collect();
            (number(run.account_id.into()), run.first_position.number(), run.types, subjects)
        };
        runs(announcements, &mut last).unwrap().into_iter().map(shown).collect()
    }

    #[test]
    fn positions_continue_after_the_last_one_of_each_account() {
        let announcements = [
            announcement(&[1], &[10, 11], &[1]),
            announcement(&[1, 2, 1], &[12, 13, 14], &[1, 2, 2]),
            announcement(&[2], &[15], &[1]),
        ];
        assert_eq!(
            given(&announcements),
            [
                (1, 8, vec![1], vec![10, 11]),
                (1, 10, vec![1, 2], vec![12, 14]),
                (2, 1, vec![2], vec![13]),
                (2, 2, vec![1], vec![15]),
            ]
        );
    }

    #[test]
    fn a_run_has_at_most_a_hundred_events() {
        let executions: Vec<u128> = (1..=250).collect();
        let mut types = vec![1; 250];
        types[120] = 2;
        let runs = given(&[announcement(&[1], &executions, &types)]);
        let shape: Vec<_> = runs.iter().map(|run| (run.1, run.2.len(), run.3.len())).collect();
        assert_eq!(shape, [(8, 1, 100), (108, 100, 100), (208, 1, 50)]);
        assert_eq!(runs.into_iter().flat_map(|run| run.3).collect::<Vec<_>>(), executions);
    }

    #[test]
    fn arrays_of_different_lengths_are_refused() {
        for broken in [
            announcement(&[1, 2], &[1, 2, 3], &[1]),
            announcement(&[1], &[1, 2, 3], &[1, 2]),
            announcement(&[], &[1], &[1]),
        ] {
            assert!(runs(&[broken], &mut HashMap::new()).is_err());
        }
    }
}
