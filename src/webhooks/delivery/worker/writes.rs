//! Writes: everything that happened since the last one, as soon as that is stored.

use std::time::Instant;

use log::{info, warn};
use tokio::sync::oneshot;

use super::{Closing, Happened, PAUSE, Worker};
use crate::webhooks::delivery::write::Write;

impl Worker {
    /// Has everything stored that there is, unless an earlier write is under way.
    pub(super) fn write(&mut self, now: Instant) {
        if self.writing {
            return;
        }
        let last = self.closing.is_some() && self.agenda.calls() == 0;
        let disables = match self.closing {
            Some(Closing::Disable(reason)) if last => Some(reason),
            _ => None,
        };
        let note = self.note_is_due(now, last).then(|| self.note.take()).flatten();
        let ended_replay = self.agenda.ended_replay();
        let changes = self.agenda.changes();
        let nothing = changes.is_none() && note.is_none() && ended_replay.is_none();
        if nothing && self.lost.is_none() && disables.is_none() {
            return;
        }
        if note.is_some() {
            self.noted_at = Some(now);
        }
        if let Some(number) = ended_replay {
            info!(endpoint:% = self.endpoint.endpoint_id, replay = number; "webhooks: a replay has ended");
            self.ended_replay = number;
            self.agenda.set_replay(None);
        }
        if let Some(reason) = disables {
            self.shared.metrics.disabled(reason);
            warn!(endpoint:% = self.endpoint.endpoint_id, reason = reason.name(); "webhooks: an endpoint is disabled");
        }
        let (stored, hears) = oneshot::channel();
        let write = Write {
            lease: self.id,
            changes: changes.unwrap_or_default(),
            note,
            ended_replay,
            lost: self.lost.take(),
            disables,
            stored,
        };
        self.writing = true;
        let writes = self.shared.writes.clone();
        let disabled = disables.is_some();
        self.running.push(Box::pin(async move {
            if writes.send(write).await.is_err() {
                return Happened::Stored(None);
            }
            // A disabled endpoint has no lease any more.
            Happened::Stored(hears.await.ok().map(|held| held && !disabled))
        }));
    }

    /// A note is stored at once, but not one after the other: an updated row becomes slow.
    fn note_is_due(&self, now: Instant, last: bool) -> bool {
        self.note.is_some() && (last || self.noted_at.is_none_or(|at| at + PAUSE <= now))
    }
}
