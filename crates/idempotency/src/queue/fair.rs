//! A queue in which accounts take turns; of each account the oldest item goes first.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
};

/// Items that wait, by account and place. An account with a thousand items delays the first item of another
/// account by one item.
pub(super) struct FairQueue<A, T> {
    lines: HashMap<A, Line<T>>,
    /// The accounts that have items, in the order of their turns.
    turns: BTreeMap<u64, A>,
    next_turn: u64,
}

/// The items of one account, at least one, by place.
struct Line<T> {
    turn: u64,
    items: BTreeMap<u64, T>,
}

impl<A, T> Default for FairQueue<A, T> {
    fn default() -> Self {
        Self { lines: HashMap::new(), turns: BTreeMap::new(), next_turn: 0 }
    }
}

impl<A: Clone + Eq + Hash, T> FairQueue<A, T> {
    /// Adds an item. An account that had none gets the last turn.
    pub(super) fn insert(&mut self, account: A, place: u64, item: T) {
        if let Some(line) = self.lines.get_mut(&account) {
            line.items.insert(place, item);
        } else {
            let turn = self.take_turn(account.clone());
            self.lines.insert(account, Line { turn, items: BTreeMap::from([(place, item)]) });
        }
    }

    /// Removes an item before its turn.
    pub(super) fn remove(&mut self, account: &A, place: u64) -> Option<T> {
        let line = self.lines.get_mut(account)?;
        let item = line.items.remove(&place);
        if line.items.is_empty() {
            self.turns.remove(&line.turn);
            self.lines.remove(account);
        }
        item
    }

    /// Takes out the oldest item of the account whose turn it is. The account then gets the last turn.
    pub(super) fn pop(&mut self) -> Option<T> {
        let (_, account) = self.turns.pop_first()?;
        let line = self.lines.get_mut(&account)?;
        let (_, item) = line.items.pop_first()?;
        if line.items.is_empty() {
            self.lines.remove(&account);
        } else {
            let turn = self.take_turn(account.clone());
            if let Some(line) = self.lines.get_mut(&account) {
                line.turn = turn;
            }
        }
        Some(item)
    }

    fn take_turn(&mut self, account: A) -> u64 {
        let turn = self.next_turn;
        self.next_turn += 1;
        self.turns.insert(turn, account);
        turn
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Insert(u8),
        /// Of what waits, the item at this index, counted round.
        Remove(usize),
        Pop,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => (0..4_u8).prop_map(Step::Insert),
            1 => any::<usize>().prop_map(Step::Remove),
            2 => Just(Step::Pop),
        ];
        prop::collection::vec(step, 0..200)
    }

    proptest! {
        /// Against a model: what waits, and how often each account was served since the others last were.
        #[test]
        fn accounts_take_turns_and_each_items_turn_comes(steps in steps()) {
            let mut queue = FairQueue::default();
            let mut waiting = BTreeSet::new();
            // Those that have waited all the time since this account was last served.
            let mut unserved: HashMap<u8, BTreeSet<u8>> = HashMap::new();
            let accounts = |waiting: &BTreeSet<(u8, u64)>| -> BTreeSet<u8> {
                waiting.iter().map(|(account, _)| *account).collect()
            };
            for (place, step) in (0..).zip(steps) {
                match step {
                    Step::Insert(account) => {
                        queue.insert(account, place, (account, place));
                        waiting.insert((account, place));
                    }
                    Step::Remove(index) => {
                        let index = index.checked_rem(waiting.len()).unwrap_or(0);
                        if let Some((account, place)) = waiting.iter().nth(index).copied() {
                            prop_assert_eq!(queue.remove(&account, place), Some((account, place)));
                            prop_assert_eq!(queue.remove(&account, place), None);
                            waiting.remove(&(account, place));
                        }
                    }
                    Step::Pop => {
                        let popped = queue.pop();
                        prop_assert_eq!(popped.is_none(), waiting.is_empty());
                        if let Some((account, place)) = popped {
                            let oldest = waiting.iter().find(|(of, _)| *of == account);
                            prop_assert_eq!(oldest, Some(&(account, place)), "the oldest first");
                            waiting.remove(&(account, place));
                            let skipped = unserved.get(&account).into_iter().flatten();
                            prop_assert_eq!(skipped.count(), 0, "served twice while another waited");
                            for others in unserved.values_mut() {
                                others.remove(&account);
                            }
                            let mut others = accounts(&waiting);
                            others.remove(&account);
                            unserved.insert(account, others);
                        }
                    }
                }
                let still = accounts(&waiting);
                for others in unserved.values_mut() {
                    others.retain(|other| still.contains(other));
                }
            }
            let mut rest = BTreeSet::new();
            while let Some(item) = queue.pop() {
                prop_assert!(rest.insert(item), "once");
            }
            prop_assert_eq!(rest, waiting);
            prop_assert!(queue.lines.is_empty() && queue.turns.is_empty(), "nothing is left behind");
        }
    }
}
