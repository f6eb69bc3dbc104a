//! Calls: one for each event that the agenda chooses.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use log::{info, warn};

use super::{Closing, Happened, PAUSE, Shared, Worker};
use crate::{
    idempotency::loggable,
    metrics::Attempt,
    webhooks::{
        CALL_TIMEOUT, Call, Heard,
        delivery::{
            agenda::{Ended, Source},
            facts::Facts,
            write::Note,
        },
        endpoint::{DisabledReason, Endpoint},
    },
};

impl Worker {
    pub(super) fn call(&mut self, source: Source, facts: Facts) {
        let body = self.bodies.remove(&(source, facts.position));
        let Shared { reader, metrics, .. } = self.shared.clone();
        let caller = self.caller.clone();
        let Endpoint { account_id, url, .. } = self.endpoint.clone();
        let (secrets, lease) = (Arc::clone(&self.secrets), self.lease.clone());
        self.running.push(Box::pin(async move {
            let event = match body {
                Some(event) => Ok(event),
                None => reader.event(account_id, &facts).await,
            };
            let heard = match event {
                Ok(event) if lease.covers(CALL_TIMEOUT, Instant::now()) => {
                    let begun = Instant::now();
                    let body = Bytes::copy_from_slice(event.envelope().as_bytes());
                    let call = Call { url: &url, id: &event.event_id, body, secrets: &secrets };
                    let heard = caller.call(call).await;
                    metrics.attempted(Attempt::of(&heard), begun.elapsed());
                    Some(heard)
                }
                Ok(_) => None,
                Err(error) => {
                    warn!("webhooks: can't read an event to deliver again: {}", loggable(&error));
                    None
                }
            };
            Happened::Called { source, facts, heard }
        }));
    }

    pub(super) fn heard(&mut self, source: Source, facts: Facts, heard: Heard, now: Instant) {
        let mut note = Note::default();
        let ended = match heard {
            Heard::Accepted(status) => {
                if self.agenda.breaker().failing_for(now).is_some_and(|failing| failing > PAUSE) {
                    info!(endpoint:% = self.endpoint.endpoint_id; "webhooks: an endpoint takes events again");
                }
                note = Note { succeeded: true, status: Some(status), ..note };
                Ended::Delivered
            }
            Heard::Refused { status, retry_after } => {
                if status == 410 {
                    self.closing = Some(Closing::Disable(DisabledReason::Gone));
                }
                note.error = Some(format!("status {status}"));
                note.status = Some(status);
                Ended::Failed {
                    status: Some(status),
                    retry_after,
                    error: format!("status {status}"),
                }
            }
            Heard::Failed(error) => {
                note.error = Some(error.clone());
                Ended::Failed { status: None, retry_after: None, error }
            }
        };
        let failed = matches!(ended, Ended::Failed { .. });
        if failed && self.agenda.breaker().failing_for(now).is_none() {
            info!(
                endpoint:% = self.endpoint.endpoint_id, position = facts.position, source:? = source;
                "webhooks: an endpoint did not take an event: {}", note.error.as_deref().unwrap_or_default()
            );
        }
        let parked = self.agenda.ended(facts.position, ended, now, fastrand::f64());
        if parked {
            self.shared.metrics.parked();
            warn!(endpoint:% = self.endpoint.endpoint_id, position = facts.position; "webhooks: an event is parked after its last attempt");
        }
        let breaker = self.agenda.breaker();
        if failed && breaker.is_hopeless(now) {
            self.closing = Some(Closing::Disable(DisabledReason::Failing));
        }
        note.failing_for = breaker.failing_for(now);
        note.resumes_in = breaker.open_until().map(|until| until.saturating_duration_since(now));
        if let Some(earlier) = &self.note {
            note.succeeded |= earlier.succeeded;
        }
        self.note = Some(note);
    }
}
