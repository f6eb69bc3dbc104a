//! Pages of the feed, oldest first.

use super::{
    Event, EventType, Occurrence, Position,
    render::{render, unreadable},
    store::{self, Run},
};
use crate::ids::AccountId;
use sqlx::PgConnection;

/// Runs that a page reads at most.
const RUNS_OF_A_PAGE: i64 = 1000;

/// Positions that a page with a filter looks through at most.
const POSITIONS_OF_A_PAGE: i64 = 10_000;

/// A page.
#[derive(Debug)]
pub struct Page {
    /// The events, oldest first.
    pub events: Vec<Event>,
    /// The position up to which the page has looked; the next page begins after it.
    pub next_after: Position,
    /// The position of the newest event of the account.
    pub last_position: Position,
}

/// Reasons why a page does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// Events after the cursor were deleted.
    Expired {
        /// The oldest position that is kept after the cursor.
        oldest_position: Position,
        /// The position of the newest event.
        last_position: Position,
    },
    /// The cursor is beyond the end: positions have begun anew.
    Rewound {
        /// The position of the newest event.
        last_position: Position,
    },
}

impl Gone {
    /// The position of the newest event.
    #[must_use]
    pub fn last_position(self) -> Position {
        match self {
            Self::Expired { last_position, .. } | Self::Rewound { last_position } => last_position,
        }
    }
}

/// Reads the events of an account after a position: at most `limit`, and only those of `types` if any are given.
///
/// # Errors
/// When the database fails, or has events that this version of the program cannot render.
pub async fn read(
    conn: &mut PgConnection,
    account_id: AccountId,
    after: Position,
    limit: usize,
    types: &[EventType],
) -> Result<Result<Page, Gone>, sqlx::Error> {
    let positions = if types.is_empty() {
        i64::try_from(limit).unwrap_or(POSITIONS_OF_A_PAGE).min(POSITIONS_OF_A_PAGE)
    } else {
        POSITIONS_OF_A_PAGE
    };
    let runs =
        store::runs(conn, account_id, after.plus(1), after.plus(positions), RUNS_OF_A_PAGE).await?;
    let selection = match Selection::of(&runs, after, limit, types)? {
        Ok(selection) => selection,
        Err(gone) => return Ok(Err(gone)),
    };
    let events = render(conn, account_id, &selection.occurrences).await?;
    let Selection { next_after, last_position, .. } = selection;
    Ok(Ok(Page { events, next_after, last_position }))
}

/// The events of a page before they are rendered.
#[derive(Debug, PartialEq, Eq)]
struct Selection {
    occurrences: Vec<Occurrence>,
    next_after: Position,
    last_position: Position,
}

impl Selection {
    fn of(
        runs: &[Run],
        after: Position,
        limit: usize,
        types: &[EventType],
    ) -> Result<Result<Self, Gone>, sqlx::Error> {
        let last_position = runs.first().map_or(Position::START, |run| run.last_position);
        if after > last_position {
            return Ok(Err(Gone::Rewound { last_position }));
        }
        let mut selection = Self { occurrences: Vec::new(), next_after: after, last_position };
        for run in runs {
            if run.first_position > selection.next_after.plus(1) {
                let oldest_position = run.first_position;
                let expired = Gone::Expired { oldest_position, last_position };
                // Runs after a gap are for the next page, which says so.
                return Ok(if selection.next_after == after {
                    Err(expired)
                } else {
                    Ok(selection)
                });
            }
            for (offset, subject) in (0_i64..).zip(&run.subjects) {
                let position = run.first_position.plus(offset);
                if position <= selection.next_after {
                    continue;
                }
                if selection.occurrences.len() == limit {
                    return Ok(Ok(selection));
                }
                let code = run.type_at(offset);
                let event_type = code.and_then(EventType::from_code);
                if types.is_empty() || event_type.is_some_and(|one| types.contains(&one)) {
                    let unknown = || unreadable(format!("{position} has the event type {code:?}"));
                    selection.occurrences.push(Occurrence {
                        position,
                        version: run.version,
                        event_type: event_type.ok_or_else(unknown)?,
                        subject: *subject,
                        at: run.at,
                    });
                }
                selection.next_after = position;
            }
        }
        Ok(Ok(selection))
    }
}

impl Run {
    /// The code of an event's type: a run of one type has it once.
    fn type_at(&self, offset: i64) -> Option<i16> {
        match self.types.as_slice() {
            [one] => Some(*one),
            types => types.get(usize::try_from(offset).ok()?).copied(),
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use uuid::Uuid;

    use super::*;
    use crate::db::timestamp::Timestamp;

    const ALL: &[EventType] = &[];

    fn position(number: i64) -> Position {
        Position::new(number).unwrap()
    }

    /// Runs of these first positions and types, in an account of so many events.
    fn runs(of: &[(i64, &[i16])], last: i64) -> Vec<Run> {
        let run = |(first, types): &(i64, &[i16])| Run {
            first_position: position(*first),
            version: 1,
            types: types.to_vec(),
            subjects: types.iter().map(|_| Uuid::nil().into()).collect(),
            at: Timestamp(DateTime::UNIX_EPOCH),
            last_position: position(last),
        };
        of.iter().map(run).collect()
    }

    /// The positions that are shown, and the one that was looked through to.
    fn shown(
        runs: &[Run],
        after: i64,
        limit: usize,
        types: &[EventType],
    ) -> Result<(Vec<i64>, i64), Gone> {
        let selection = Selection::of(runs, position(after), limit, types).unwrap()?;
        let positions = selection.occurrences.iter().map(|one| one.position.number()).collect();
        Ok((positions, selection.next_after.number()))
    }

    #[test]
    fn a_page_begins_inside_a_run_and_ends_inside_one() {
        let runs = runs(&[(1, &[1, 1, 1]), (4, &[1, 1]), (6, &[1, 2, 1])], 8);
        assert_eq!(shown(&runs, 0, 100, ALL), Ok(((1..=8).collect(), 8)));
        assert_eq!(shown(&runs, 2, 4, ALL), Ok((vec![3, 4, 5, 6], 6)));
        assert_eq!(shown(&runs, 8, 4, ALL), Ok((vec![], 8)));
    }

    #[test]
    fn a_filter_moves_the_cursor_over_what_it_hides() {
        let refunds = &[EventType::RefundCreated];
        let runs = runs(&[(1, &[1, 2, 1]), (4, &[2, 2]), (6, &[1, 1])], 7);
        assert_eq!(shown(&runs, 0, 100, refunds), Ok((vec![2, 4, 5], 7)));
        assert_eq!(shown(&runs, 5, 100, refunds), Ok((vec![], 7)));
        assert_eq!(shown(&runs, 0, 1, refunds), Ok((vec![2], 2)));
    }

    #[test]
    fn a_gap_ends_a_page_and_the_next_one_says_so() {
        let runs = runs(&[(1, &[1, 1]), (5, &[1])], 5);
        assert_eq!(shown(&runs, 0, 100, ALL), Ok((vec![1, 2], 2)));
        let gone = Gone::Expired { oldest_position: position(5), last_position: position(5) };
        assert_eq!(shown(&runs[1..], 2, 100, ALL), Err(gone));
        assert_eq!(shown(&runs[1..], 3, 100, ALL), Err(gone));
        assert_eq!(shown(&runs[1..], 4, 100, ALL), Ok((vec![5], 5)));
    }

    #[test]
    fn a_cursor_beyond_the_end_is_told() {
        let gone = |last| Gone::Rewound { last_position: position(last) };
        assert_eq!(shown(&[], 0, 100, ALL), Ok((vec![], 0)));
        assert_eq!(shown(&[], 1, 100, ALL), Err(gone(0)));
        assert_eq!(shown(&runs(&[(1, &[1, 1])], 2), 3, 100, ALL), Err(gone(2)));
    }

    #[test]
    fn an_event_of_an_unknown_type_is_an_error_unless_a_filter_hides_it() {
        let runs = runs(&[(1, &[1, 99])], 2);
        assert!(Selection::of(&runs, Position::START, 100, ALL).is_err());
        assert_eq!(shown(&runs, 0, 100, &[EventType::PaymentCreated]), Ok((vec![1], 2)));
    }

    #[test]
    fn a_run_of_one_type_says_so_once() {
        let mut run = runs(&[(1, &[2, 2, 2])], 3);
        run[0].types = vec![2];
        assert_eq!(shown(&run, 0, 100, &[EventType::RefundCreated]), Ok((vec![1, 2, 3], 3)));
    }
}
