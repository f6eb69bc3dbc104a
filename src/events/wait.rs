//! Requests that wait for the next event of their account.
//!
//! They hold no connection and no turn while they wait. This process wakes them for events that it gave a position
//! itself. For those of other servers, one query looks at all accounts that wait.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use actix_web::web;
use log::debug;
use tokio::time::sleep;

use super::{Position, Wakes, store};
use crate::{db::Reads, ids::AccountId, state::AppState};

/// The pause between two looks for events of other servers.
const PAUSE: Duration = Duration::from_millis(250);

/// Requests of one account that may wait. All of them read when an event arrives, and more would not get a connection.
pub const WAITERS_OF_AN_ACCOUNT: usize = 64;

/// The requests that wait, counted by account.
#[derive(Debug)]
pub struct Waiters {
    limit: usize,
    accounts: Mutex<HashMap<AccountId, Waiting>>,
}

#[derive(Debug)]
struct Waiting {
    requests: usize,
    /// The newest event that all its requests have seen; `None`: they are still reading.
    seen: Option<Position>,
}

/// The right of one request to wait, returned when it is dropped.
#[derive(Debug)]
pub(super) struct Place<'a> {
    waiters: &'a Waiters,
    account_id: AccountId,
}

impl Waiters {
    /// At most half of all connections may wait, so that the others are served.
    #[must_use]
    pub fn new(connection_limit: usize) -> Self {
        Self { limit: connection_limit / 2, accounts: Mutex::default() }
    }

    /// Takes a place. `None` if too many requests wait, of this account or in all.
    pub(super) fn enter(&self, account_id: AccountId) -> Option<Place<'_>> {
        let mut accounts = self.accounts();
        let all: usize = accounts.values().map(|waiting| waiting.requests).sum();
        let own = accounts.get(&account_id).map_or(0, |waiting| waiting.requests);
        if all >= self.limit || own >= WAITERS_OF_AN_ACCOUNT {
            return None;
        }
        let waiting = accounts.entry(account_id).or_insert(Waiting { requests: 0, seen: None });
        waiting.requests += 1;
        Some(Place { waiters: self, account_id })
    }

    /// Looks once for events that other servers gave a position, and wakes those who wait for them.
    async fn look(&self, reads: &Reads, wakes: &Wakes) {
        let accounts: Vec<AccountId> = self.accounts().keys().copied().collect();
        if accounts.is_empty() {
            return;
        }
        match reads.run(async |conn| store::last_positions(conn, &accounts).await).await {
            Ok(found) => wakes.sequenced(&self.news(&found)),
            // Each of them will hear of it when it reads.
            Err(problem) => debug!("looking for events failed: {problem:?}"),
        }
    }

    /// The accounts with events that some of their requests have not seen.
    fn news(&self, found: &[(AccountId, Position)]) -> Vec<AccountId> {
        let mut accounts = self.accounts();
        let is_news = |(account_id, last): &&(AccountId, Position)| {
            let seen = accounts.get_mut(account_id).and_then(|waiting| waiting.seen.as_mut());
            seen.is_some_and(|seen| *last > std::mem::replace(seen, (*seen).max(*last)))
        };
        found.iter().filter(is_news).map(|(account_id, _)| *account_id).collect()
    }

    fn accounts(&self) -> MutexGuard<'_, HashMap<AccountId, Waiting>> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place<'_> {
    /// Notes the newest event that this request has seen.
    pub(super) fn saw(&self, last: Position) {
        if let Some(waiting) = self.waiters.accounts().get_mut(&self.account_id) {
            waiting.seen = Some(waiting.seen.map_or(last, |seen| seen.min(last)));
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut accounts = self.waiters.accounts();
        if let Some(waiting) = accounts.get_mut(&self.account_id) {
            waiting.requests -= 1;
            if waiting.requests == 0 {
                accounts.remove(&self.account_id);
            }
        }
    }
}

/// Looks for events of other servers until the server stops.
pub async fn forever(state: web::Data<AppState>) {
    loop {
        tokio::select! {
            () = sleep(PAUSE) => state.waiters.look(&state.reads, &state.wakes).await,
            () = state.stopping.begun() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn account(number: u128) -> AccountId {
        Uuid::from_u128(number).into()
    }

    fn position(number: i64) -> Position {
        Position::START.plus(number)
    }

    #[test]
    fn an_account_and_all_accounts_together_have_a_limited_number_of_places() {
        let waiters = Waiters::new(2 * WAITERS_OF_AN_ACCOUNT + 2);
        let mut own: Vec<_> = std::iter::from_fn(|| waiters.enter(account(1))).collect();
        assert_eq!(own.len(), WAITERS_OF_AN_ACCOUNT);
        let other = waiters.enter(account(2));
        assert!(other.is_some());
        assert!(waiters.enter(account(3)).is_none(), "half of all connections wait");
        own.pop();
        assert!(waiters.enter(account(1)).is_some());
        drop((own, other));
        assert!(waiters.accounts().is_empty());
    }

    #[test]
    fn an_event_is_news_once_and_again_for_a_request_that_has_not_seen_it() {
        let waiters = Waiters::new(100);
        let [one, two] = [(); 2].map(|()| waiters.enter(account(1)).unwrap());
        let news = |last: i64| waiters.news(&[(account(1), position(last))]).len();
        assert_eq!(news(5), 0, "nobody has read yet");
        one.saw(position(5));
        assert_eq!((news(5), news(6), news(6)), (0, 1, 0));
        // It read before the sixth event was committed, and says so after others were woken.
        two.saw(position(5));
        assert_eq!((news(6), news(6)), (1, 0));
        assert_eq!(waiters.news(&[(account(2), position(9))]).len(), 0);
    }
}
