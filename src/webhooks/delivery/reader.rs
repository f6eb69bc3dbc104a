//! The connection with which the workers of a server read events. They take turns.

use std::time::Duration;

use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use tokio::{sync::Mutex, time::timeout};

use super::{cursor::WINDOW, facts::Facts};
use crate::{
    db,
    events::{
        self, Event, EventType, Occurrence, Position,
        page::{Gone, Page},
    },
    idempotency::is_of_outdated_statement,
    ids::AccountId,
};

/// Time for a page.
const LIMIT: Duration = Duration::from_secs(5);

/// Reads pages and single events.
#[derive(Debug)]
pub(super) struct Reader {
    options: PgConnectOptions,
    conn: Mutex<Option<PgConnection>>,
}

impl Reader {
    pub(super) fn new(options: PgConnectOptions) -> Self {
        Self { options, conn: Mutex::new(None) }
    }

    /// Reads the page after a position, of at most as many events as the window has slots.
    pub(super) async fn page(
        &self,
        account_id: AccountId,
        after: i64,
        types: &[EventType],
    ) -> Result<Result<Page, Gone>, sqlx::Error> {
        let after = Position::new(after).unwrap_or_default();
        let limit = usize::try_from(WINDOW).unwrap_or(usize::MAX);
        self.run(async |conn| events::page::read(conn, account_id, after, limit, types).await).await
    }

    /// Renders the event of a failure.
    pub(super) async fn event(
        &self,
        account_id: AccountId,
        facts: &Facts,
    ) -> Result<Event, sqlx::Error> {
        let Facts { event_type, version, subject, at, .. } = *facts;
        let position = Position::new(facts.position).unwrap_or_default();
        let occurrence = [Occurrence { position, version, event_type, subject, at }];
        let mut events =
            self.run(async |conn| events::render(conn, account_id, &occurrence).await).await?;
        events.pop().ok_or(sqlx::Error::RowNotFound)
    }

    /// Runs a read on the connection. A read that fails or is cancelled costs the connection.
    pub(super) async fn run<T>(
        &self,
        read: impl AsyncFn(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, sqlx::Error> {
        let mut place = self.conn.lock().await;
        let reading = async {
            let mut conn = match place.take() {
                Some(conn) => conn,
                None => self.connect().await?,
            };
            let result = match read(&mut conn).await {
                Err(error) if is_of_outdated_statement(&error) => {
                    conn.clear_cached_statements().await?;
                    read(&mut conn).await
                }
                ended => ended,
            };
            result.inspect(|_| *place = Some(conn))
        };
        timeout(LIMIT, reading).await.unwrap_or_else(|_| Err(db::silent()))
    }

    async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        let options = db::named(self.options.clone(), "payonce webhooks");
        let mut conn = db::connect(&options).await?;
        db::prepare_to_read(&mut conn, LIMIT).await?;
        Ok(conn)
    }
}
