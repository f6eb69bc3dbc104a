//! Pages of the feed, read from runs of different sizes.

use payonce::{
    events::{
        self, EventType, Position,
        page::{self, Gone, Page},
    },
    ids::AccountId,
};
use payonce_testing::{TestDatabase, feed::fill};
use sqlx::PgConnection;

async fn read(conn: &mut PgConnection, after: i64, limit: usize, types: &[EventType]) -> Page {
    let after = Position::new(after).unwrap();
    page::read(conn, AccountId::DEFAULT, after, limit, types).await.unwrap().unwrap()
}

fn positions(page: &Page) -> Vec<i64> {
    page.events.iter().map(|event| event.occurrence.position.number()).collect()
}

#[tokio::test]
async fn pages_of_every_size_join_without_gap_or_repetition() {
    let database = TestDatabase::create().await;
    fill(&database, &[1, 3, 100, 1, 2, 57, 100, 36]).await;
    let mut conn = database.connect().await;
    for limit in [1, 2, 7, 100, 200, 500] {
        let (mut after, mut seen) = (0, Vec::new());
        loop {
            let page = read(&mut conn, after, limit, &[]).await;
            assert_eq!(page.last_position.number(), 300);
            if page.events.is_empty() {
                break;
            }
            assert!(page.events.len() == limit || page.next_after == page.last_position);
            seen.extend(positions(&page));
            after = page.next_after.number();
        }
        assert_eq!(seen, (1..=300).collect::<Vec<_>>(), "limit {limit}");
    }
}

#[tokio::test]
async fn an_event_has_the_same_bytes_in_every_page_and_in_a_retry() {
    let database = TestDatabase::create().await;
    fill(&database, &[20, 1]).await;
    let mut conn = database.connect().await;
    let all = read(&mut conn, 0, 100, &[]).await;
    database.execute("UPDATE payments SET refunded = amount, refund_count = 1").await;
    for (number, event) in (0..).zip(&all.events) {
        let alone = read(&mut conn, number, 1, &[]).await;
        assert_eq!(alone.events[0].envelope(), event.envelope());
        let occurrences = [event.occurrence];
        let again = events::render(&mut conn, AccountId::DEFAULT, &occurrences).await.unwrap();
        assert_eq!(again[0].envelope(), event.envelope());
    }
}

#[tokio::test]
async fn a_filter_shows_events_of_its_types_and_moves_past_the_others() {
    let database = TestDatabase::create().await;
    fill(&database, &[9, 5, 30]).await;
    let mut conn = database.connect().await;
    let refunds = &[EventType::RefundCreated];
    let page = read(&mut conn, 0, 3, refunds).await;
    assert_eq!((positions(&page), page.next_after.number()), (vec![10, 20, 30], 30));
    let page = read(&mut conn, 30, 3, refunds).await;
    assert_eq!((positions(&page), page.next_after.number()), (vec![40], 44));
}

#[tokio::test]
async fn a_filter_looks_through_a_bounded_number_of_events() {
    let database = TestDatabase::create().await;
    fill(&database, &[100; 101]).await;
    database.execute("UPDATE event_runs SET types = '{1}'").await;
    let mut conn = database.connect().await;
    let page = read(&mut conn, 0, 10, &[EventType::RefundCreated]).await;
    assert_eq!((page.events.len(), page.next_after.number()), (0, 10_000));
    let page = read(&mut conn, 10_000, 10, &[EventType::RefundCreated]).await;
    assert_eq!((page.next_after.number(), page.last_position.number()), (10_100, 10_100));
}

#[tokio::test]
async fn a_cursor_is_told_what_was_deleted_and_that_it_is_beyond_the_end() {
    let database = TestDatabase::create().await;
    let mut conn = database.connect().await;
    let page = read(&mut conn, 0, 10, &[]).await;
    assert_eq!((page.events.len(), page.last_position), (0, Position::START));
    fill(&database, &[10, 10, 10]).await;
    database.execute("DELETE FROM event_runs WHERE first_position = 1").await;
    let mut gone = async |after: i64, limit| {
        let after = Position::new(after).unwrap();
        page::read(&mut conn, AccountId::DEFAULT, after, limit, &[]).await.unwrap().unwrap_err()
    };
    let last_position = Position::START.plus(30);
    let expired =
        |oldest| Gone::Expired { oldest_position: Position::START.plus(oldest), last_position };
    for limit in [1, 100] {
        assert_eq!(gone(0, limit).await, expired(11));
        assert_eq!(gone(9, limit).await, expired(11));
        assert_eq!(gone(31, limit).await, Gone::Rewound { last_position });
    }
    // A run that is deleted out of order is missed by nobody, either.
    database.execute("DELETE FROM event_runs WHERE first_position = 11").await;
    assert_eq!(gone(10, 1).await, expired(21));
    database.execute("UPDATE event_runs SET first_position = 1000 WHERE first_position = 21").await;
    assert_eq!(
        gone(20, 1).await,
        Gone::Expired {
            oldest_position: Position::START.plus(1000),
            last_position: Position::START.plus(1009)
        }
    );
    let page = page::read(&mut conn, AccountId::DEFAULT, Position::START.plus(999), 100, &[]).await;
    assert_eq!(positions(&page.unwrap().unwrap()), (1000..=1009).collect::<Vec<_>>());
}
