//! Pages of the feed, for first deliveries and for replays.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use log::warn;

use super::{Happened, PAUSE, UNKNOWN, Worker};
use crate::{
    events::{
        EventType, Position,
        page::{Gone, Page},
    },
    idempotency::loggable,
    webhooks::{
        delivery::{agenda::Source, facts::Facts},
        endpoint::Range,
    },
};

impl Worker {
    pub(super) fn read(&mut self, source: Source, now: Instant) {
        let index = usize::from(source == Source::Replay);
        let known = self.reading.get(index).copied().unwrap_or(true);
        let Some(after) = self
            .agenda
            .reads_after(source)
            .filter(|after| !known && self.read_at <= now && (*after < self.last_position))
        else {
            return;
        };
        if let Some(reading) = self.reading.get_mut(index) {
            *reading = true;
        }
        if self.last_position == UNKNOWN {
            // Until the page says it, or news arrive meanwhile.
            self.last_position = after;
        }
        let (reader, account_id) = (Arc::clone(&self.shared.reader), self.endpoint.account_id);
        let codes = self.endpoint.event_types.codes().iter();
        let types: Vec<EventType> = codes.filter_map(|code| EventType::from_code(*code)).collect();
        self.running.push(Box::pin(async move {
            Happened::Read(source, Box::new(reader.page(account_id, after, &types).await))
        }));
    }

    pub(super) fn has_read(
        &mut self,
        source: Source,
        page: Result<Result<Page, Gone>, sqlx::Error>,
        now: Instant,
    ) {
        match page {
            Ok(Ok(page)) => self.take(source, page),
            Ok(Err(Gone::Expired { oldest_position, .. })) => {
                let before = oldest_position.before();
                if source == Source::First
                    && let Some(after) = self.agenda.reads_after(source).and_then(Position::new)
                {
                    let lost = Range { from: after.plus(1), to: before };
                    warn!(
                        endpoint:% = self.endpoint.endpoint_id, from:% = lost.from, to:% = lost.to;
                        "webhooks: events expired before they were delivered"
                    );
                    self.shared.metrics.lost(before.number() - after.number());
                    self.lost = Some(lost);
                }
                self.agenda.read(source, &[], before.number());
            }
            Ok(Err(Gone::Rewound { last_position })) => {
                warn!(
                    endpoint:% = self.endpoint.endpoint_id, last_position = last_position.number();
                    "webhooks: the positions of an account have begun anew; deliveries continue after the newest event"
                );
                self.agenda.rewind(last_position.number());
                self.last_position = last_position.number();
                self.read_at = now + PAUSE;
            }
            Err(error) => {
                warn!("webhooks: can't read events: {}", loggable(&error));
                self.last_position = UNKNOWN;
                self.read_at = now + PAUSE;
            }
        }
    }

    fn take(&mut self, source: Source, page: Page) {
        let types = &self.endpoint.event_types;
        let wanted =
            page.events.into_iter().filter(|event| types.includes(event.occurrence.event_type));
        let (mut all, mut read) = (Vec::new(), BTreeMap::new());
        for event in wanted {
            let facts = Facts::of(&event);
            all.push(facts);
            read.insert((source, facts.position), event);
        }
        self.agenda.read(source, &all, page.next_after.number());
        let agenda = &self.agenda;
        self.bodies.append(&mut read);
        self.bodies.retain(|(source, position), _| agenda.waits(*source, *position));
        let newest = page.last_position.number();
        // A page without progress always ends the reading.
        let known = if all.is_empty() { newest } else { self.last_position.max(newest) };
        self.last_position = known;
    }
}
