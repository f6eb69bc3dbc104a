//! `GET /events`.

use actix_web::{HttpRequest, HttpResponse, http::header, web};
use serde::Serialize;
use tokio::time::{Instant, sleep_until};

use super::{
    Event, Position,
    feed::{self, Feed, FeedId},
    page::{self, Gone, Page},
    query::Question,
};
use crate::{
    accounts::Caller,
    db::timestamp::Timestamp,
    http::problem::{FeedState, Kind, Problem},
    ids::AccountId,
    state::AppState,
};

#[derive(Serialize)]
struct Shown {
    events: Vec<Event>,
    next_after: Position,
    last_position: Position,
    feed: FeedId,
    complete_since: Option<Timestamp>,
}

/// `GET /events`: a page of the account's events, the oldest first. If there is none, it waits for one as long as the
/// client asks.
///
/// # Errors
/// `invalid-query`; `events-expired`; `events-rewound`; `database-unavailable`.
pub async fn list(
    Caller { account_id }: Caller,
    request: HttpRequest,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    let question = Question::read(request.query_string())?;
    let (Page { events, next_after, last_position }, feed) =
        read_or_wait(&state, account_id, question).await?;
    let shown = Shown {
        events,
        next_after,
        last_position,
        feed: feed.id,
        complete_since: feed.complete_since,
    };
    Ok(HttpResponse::Ok().insert_header((header::CACHE_CONTROL, "no-store")).json(shown))
}

/// Reads a page, and again after each new event, until the page shows one or the wait ends. If too many requests wait,
/// or the server stops, it returns the first page.
async fn read_or_wait(
    state: &AppState,
    account_id: AccountId,
    mut question: Question,
) -> Result<(Page, Feed), Problem> {
    let waits = !question.wait.is_zero() && !state.stopping.has_begun();
    let Some(place) = waits.then(|| state.waiters.enter(account_id)).flatten() else {
        return read(state, account_id, &question).await;
    };
    let end = Instant::now() + question.wait;
    let mut news = state.wakes.subscribe(account_id);
    loop {
        let (page, feed) = read(state, account_id, &question).await?;
        if !page.events.is_empty() || page.next_after < page.last_position {
            return Ok((page, feed));
        }
        place.saw(page.last_position);
        // Events that a filter hides are not looked through again.
        question.after = page.next_after;
        tokio::select! {
            () = news.sequenced() => {}
            () = sleep_until(end) => return Ok((page, feed)),
            () = state.stopping.begun() => return Ok((page, feed)),
        }
    }
}

async fn read(
    state: &AppState,
    account_id: AccountId,
    question: &Question,
) -> Result<(Page, Feed), Problem> {
    let Question { after, limit, types, .. } = question;
    let (feed, found) = state
        .reads
        .run_for(account_id, async |conn| {
            let feed = feed::read(conn).await?;
            Ok((feed, page::read(conn, account_id, *after, (*limit).into(), types).await?))
        })
        .await?;
    let found = if question.feed.is_some_and(|known| known != feed.id) {
        let last_position = found.map_or_else(Gone::last_position, |page| page.last_position);
        Err(Gone::Rewound { last_position })
    } else {
        found
    };
    match found {
        Ok(page) => Ok((page, feed)),
        Err(reason) => Err(gone(*after, reason, feed.id)),
    }
}

/// The problem of a cursor that leads nowhere.
fn gone(after: Position, reason: Gone, feed: FeedId) -> Problem {
    let state = |oldest: Option<Position>, last: Position| FeedState {
        oldest_position: oldest.map(Position::number),
        last_position: last.number(),
        feed: feed.to_string(),
    };
    match reason {
        Gone::Expired { oldest_position, last_position } => {
            let (missed, resume) = (after.plus(1), oldest_position.before());
            let detail = format!(
                "The events from {missed} to {resume} were deleted after EVENT_TTL, and this cursor has not read them. \
                 Read the payments of that time with GET /payment. Then continue with after={resume}."
            );
            Problem::new(Kind::EventsExpired)
                .with_detail(detail)
                .with_feed(state(Some(oldest_position), last_position))
        }
        Gone::Rewound { last_position } => {
            Problem::new(Kind::EventsRewound).with_feed(state(None, last_position))
        }
    }
}
