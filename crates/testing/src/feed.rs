//! A consumer of the feed, which checks that it misses nothing.

use std::{
    collections::{BTreeMap, HashSet},
    net::SocketAddr,
    time::{Duration, Instant, SystemTime},
};

use reqwest::header::HeaderMap;
use serde_json::Value;
use tokio::time::sleep;

use super::{
    TestDatabase,
    client::{Response, http_client},
    wait::{PATIENCE, PAUSE},
};

/// An event, and when the reader got it.
#[derive(Debug, Clone)]
pub struct Heard {
    pub event_id: String,
    pub position: i64,
    pub event_type: String,
    pub data: Value,
    /// The time of the event's transaction, as RFC 3339.
    pub timestamp: String,
    pub at: SystemTime,
}

/// A reader with a cursor. It panics when positions have a gap, an event appears twice, or the feed changes.
pub struct FeedReader {
    http: reqwest::Client,
    /// Parameters besides the cursor, such as `&limit=7`.
    parameters: String,
    pub after: i64,
    pub feed: Option<String>,
    pub events: Vec<Heard>,
    ids: HashSet<String>,
    /// Attempts without a page, by status; 0 if the connection failed.
    pub failed: BTreeMap<u16, u32>,
}

impl FeedReader {
    /// A reader of the anonymous account's feed, from its beginning.
    pub fn new(parameters: &str) -> Self {
        Self::of(http_client(HeaderMap::new()), parameters)
    }

    /// A reader with this HTTP client, which may send an API key.
    pub fn of(http: reqwest::Client, parameters: &str) -> Self {
        Self {
            http,
            parameters: parameters.to_owned(),
            after: 0,
            feed: None,
            events: Vec::new(),
            ids: HashSet::new(),
            failed: BTreeMap::new(),
        }
    }

    /// Reads one page, and checks it. Returns the number of its events; `None` if there was no page, as while a
    /// server is down.
    pub async fn read_page(&mut self, server: SocketAddr) -> Option<usize> {
        let feed = self.feed.as_ref().map_or_else(String::new, |feed| format!("&feed={feed}"));
        let url = format!("http://{server}/events?after={}{}{feed}", self.after, self.parameters);
        let response = match self.http.get(url).send().await {
            Ok(response) => Response::read(response).await.ok(),
            Err(_) => None,
        };
        let status = response.as_ref().map_or(0, |response| response.status);
        let Some(page) = response.filter(|_| status == 200) else {
            let temporary = matches!(status, 0 | 429 | 500..);
            assert!(temporary, "after {}: {status}", self.after);
            *self.failed.entry(status).or_default() += 1;
            return None;
        };
        Some(self.take(&page.json()))
    }

    /// Checks a page, and moves the cursor past it.
    fn take(&mut self, page: &Value) -> usize {
        let at = SystemTime::now();
        let feed = page["feed"].as_str().unwrap();
        assert_eq!(self.feed.get_or_insert(feed.to_owned()), feed);
        let events = page["events"].as_array().unwrap();
        for event in events {
            let text = |name: &str| event[name].as_str().unwrap().to_owned();
            let position = event["position"].as_i64().unwrap();
            assert_eq!(position, self.after + 1, "a gap, or a repetition: {event}");
            assert!(self.ids.insert(text("event_id")), "twice: {event}");
            self.after = position;
            self.events.push(Heard {
                event_id: text("event_id"),
                position,
                event_type: text("type"),
                data: event["data"].clone(),
                timestamp: text("timestamp"),
                at,
            });
        }
        assert_eq!(page["next_after"], self.after, "events of the page are missing");
        assert!(page["last_position"].as_i64().unwrap() >= self.after, "{page}");
        events.len()
    }

    /// Reads until `done` holds, asking for the servers' addresses before each page. Panics if no event arrives for a
    /// minute.
    pub async fn read_until(
        &mut self,
        servers: impl Fn() -> Vec<SocketAddr>,
        mut done: impl FnMut(&Self) -> bool,
    ) {
        let mut progress = Instant::now();
        for attempt in 0.. {
            if done(self) {
                return;
            }
            let all = servers();
            let server = all.get(attempt % all.len().max(1)).copied();
            let read = match server {
                Some(server) => self.read_page(server).await,
                None => None,
            };
            if read.is_some_and(|events| events > 0) {
                progress = Instant::now();
                continue;
            }
            assert!(
                progress.elapsed() < PATIENCE,
                "no event after {}: {:?}",
                self.after,
                self.failed
            );
            sleep(PAUSE).await;
        }
    }

    /// The time from each event's transaction to the reader, the shortest first.
    pub fn lags(&self) -> Vec<Duration> {
        let lag = |event: &Heard| {
            let committed: sqlx::types::chrono::DateTime<sqlx::types::chrono::Utc> =
                event.timestamp.parse().unwrap();
            event.at.duration_since(committed.into()).unwrap_or_default()
        };
        let mut lags: Vec<Duration> = self.events.iter().map(lag).collect();
        lags.sort_unstable();
        lags
    }
}

/// Inserts runs of these sizes for the anonymous account, after those that it has. Their events are of one payment each;
/// every tenth payment is fully refunded, and its event is the refund's.
pub async fn fill(database: &TestDatabase, sizes: &[i64]) {
    let account = "00000000-0000-0000-0000-000000000000";
    let next = "SELECT coalesce(max(first_position + cardinality(subjects)), 1) FROM event_runs";
    let mut first = database.number(next).await;
    let end = first + sizes.iter().sum::<i64>();
    database
        .execute(&format!(
            "INSERT INTO payments (transaction_id, account_id, user_id, amount)
             SELECT ('00000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid, '{account}', 'user_' || n, n
             FROM generate_series({first}, {end} - 1) AS n;
             INSERT INTO refunds (refund_id, transaction_id, account_id, amount, refunded_after, ordinal)
             SELECT ('00000000-0000-0000-0001-' || right(transaction_id::text, 12))::uuid, transaction_id,
                    account_id, amount, amount, 1
             FROM payments WHERE amount % 10 = 0 AND amount >= {first}"
        ))
        .await;
    for size in sizes {
        let last = first + size - 1;
        database
            .execute(&format!(
                "INSERT INTO event_runs (account_id, first_position, version, types, subjects, at)
                 SELECT '{account}', {first}, 1, array_agg(type ORDER BY n),
                        array_agg(('00000000-0000-0000-000' || type - 1 || '-' || lpad(n::text, 12, '0'))::uuid ORDER BY n),
                        now()
                 FROM generate_series({first}, {last}) AS n, LATERAL (SELECT (n % 10 = 0)::int + 1 AS type) AS of"
            ))
            .await;
        first += size;
    }
}
