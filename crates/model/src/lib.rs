#![doc = include_str!("../README.md")]
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a model is a test: a number outside its bounds and a missing counterexample fail loudly"
)]

use std::fmt::{Debug, Display, Write as _};
use std::hash::Hash;

use stateright::{Checker as _, HasDiscoveries, Model};

pub mod delivery;
pub mod feed;
mod postgres;
mod variant;

pub use variant::Variant;

/// Explores all states of a model. Returns their number.
///
/// # Panics
///
/// If a property fails.
pub fn assert_holds<M>(model: M) -> usize
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + Debug + PartialEq + Send + Sync + 'static,
{
    let checker = model.checker().threads(2).spawn_bfs().join();
    checker.assert_properties();
    checker.unique_state_count()
}

/// Returns a shortest sequence of steps after which a property fails.
///
/// # Panics
///
/// If the property holds.
pub fn counterexample<M>(model: impl Fn() -> M, property: &'static str) -> String
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Display + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + Debug + Display + PartialEq + Send + Sync + 'static,
{
    let find = |max_depth| {
        let only = HasDiscoveries::AllOf(std::iter::once(property).collect());
        let checker =
            model().checker().finish_when(only).target_max_depth(max_depth).spawn_bfs().join();
        checker.discovery(property)
    };
    let mut path = find(usize::MAX).expect("the model has a counterexample");
    // The checker goes on for a while after a discovery, and keeps the last one.
    while let Some(shorter) = find(path.clone().into_vec().len()) {
        path = shorter;
    }
    let end = path.last_state().to_string();
    let mut trace = format!("fails: {property}\n");
    for (number, action) in path.into_actions().iter().enumerate() {
        let _infallible = writeln!(trace, "{:>3}. {action}", number + 1);
    }
    trace + &end
}
