//! Relations between settings, which clap cannot check.

use std::{net::IpAddr, time::Duration};

use super::{ConfigError, Settings, Ttl};

/// A setting's name and value.
type Named = (&'static str, Duration);

/// The value of a setting that is `never`.
const NEVER: Duration = Duration::MAX;

/// Leaves PostgreSQL time to respond, also within the time-outs that are parts of the deadline.
const SHORTEST_DEADLINE: Named = ("the shortest", Duration::from_millis(500));

/// A statement waits this long for a locked row. A quarantined command must have been tried once before its 409.
const SHORTEST_IN_FLIGHT_WAIT: Named = ("the shortest", Duration::from_millis(100));

/// No client waits longer.
const LONGEST_DEADLINE: Named = ("the longest", Duration::from_mins(10));

/// One pass each second keeps up with any load.
const SHORTEST_SWEEP_INTERVAL: Named = ("the shortest", Duration::from_secs(1));

/// A shorter one refuses clients on a slow network.
const SHORTEST_READ_TIMEOUT: Named = ("the shortest", Duration::from_millis(100));

/// With none, actix closes a connection before its first request.
const SHORTEST_KEEP_ALIVE: Named = ("the shortest", Duration::from_secs(1));

/// No proxy keeps a connection longer.
const LONGEST_KEEP_ALIVE: Named = ("the longest", Duration::from_hours(24));

/// A consumer must be able to be down for a while.
const SHORTEST_EVENT_TTL: Named = ("the shortest", Duration::from_hours(1));

/// Longer than any record is kept, and within the range of PostgreSQL's intervals and dates.
const LONGEST_TTL: Named = ("the longest", Duration::from_hours(24 * 36_500));

impl Settings {
    /// Checks that the settings fit each other.
    ///
    /// # Errors
    /// The first contradiction.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.validate_lifetimes()?;
        self.validate_intervals()?;
        self.validate_addresses()?;
        let (share, limit) = (self.account_queue_limit(), self.queue_limit.get());
        if share > limit {
            return Err(ConfigError::Contradiction(format!(
                "ACCOUNT_QUEUE_LIMIT ({share}) must be at most QUEUE_LIMIT ({limit})"
            )));
        }
        Ok(())
    }

    fn validate_lifetimes(&self) -> Result<(), ConfigError> {
        let key_ttl = ("IDEMPOTENCY_KEY_TTL", self.idempotency_key_ttl.0.unwrap_or(NEVER));
        let response_ttl =
            ("IDEMPOTENCY_RESPONSE_TTL", self.idempotency_response_ttl.0.unwrap_or(NEVER));
        let deadline = ("REQUEST_DEADLINE", self.request_deadline);
        at_least(key_ttl, response_ttl)?;
        more_than(response_ttl, deadline)?;
        more_than(deadline, ("IN_FLIGHT_WAIT", self.in_flight_wait))?;
        let event_ttl = ("EVENT_TTL", self.event_ttl.0.unwrap_or(NEVER));
        at_least(event_ttl, SHORTEST_EVENT_TTL)?;
        for ttl in [key_ttl, response_ttl, event_ttl].into_iter().filter(|ttl| ttl.1 != NEVER) {
            demand(ttl.1 <= LONGEST_TTL.1, ttl, "never, or at most", LONGEST_TTL)?;
        }
        Ok(())
    }

    fn validate_intervals(&self) -> Result<(), ConfigError> {
        let deadline = ("REQUEST_DEADLINE", self.request_deadline);
        let wait = ("IN_FLIGHT_WAIT", self.in_flight_wait);
        let header = ("HEADER_TIMEOUT", self.header_timeout);
        let body = ("BODY_TIMEOUT", self.body_timeout);
        let sweep = ("SWEEP_INTERVAL", self.sweep_interval.0.unwrap_or(NEVER));
        at_least(deadline, SHORTEST_DEADLINE)?;
        at_least(wait, SHORTEST_IN_FLIGHT_WAIT)?;
        at_least(header, SHORTEST_READ_TIMEOUT)?;
        at_least(body, SHORTEST_READ_TIMEOUT)?;
        at_least(sweep, SHORTEST_SWEEP_INTERVAL)?;
        at_least(("KEEP_ALIVE", self.keep_alive), SHORTEST_KEEP_ALIVE)?;
        at_most(("KEEP_ALIVE", self.keep_alive), LONGEST_KEEP_ALIVE)?;
        for setting in [deadline, wait, header, body, ("SHUTDOWN_DELAY", self.shutdown_delay)] {
            at_most(setting, LONGEST_DEADLINE)?;
        }
        Ok(())
    }

    fn validate_addresses(&self) -> Result<(), ConfigError> {
        if let Some(metrics) = self.metrics_address
            && let Ok(host) = self.host.trim_matches(['[', ']']).parse::<IpAddr>()
            && self.port != 0
            && metrics.port() == self.port
            && overlap(host, metrics.ip())
        {
            return Err(ConfigError::Contradiction(format!(
                "METRICS_ADDRESS ({metrics}) must differ from the address of HOST ({host}) and PORT ({})",
                self.port
            )));
        }
        Ok(())
    }
}

fn at_least(setting: Named, bound: Named) -> Result<(), ConfigError> {
    demand(setting.1 >= bound.1, setting, "at least", bound)
}

fn more_than(setting: Named, bound: Named) -> Result<(), ConfigError> {
    demand(setting.1 > bound.1, setting, "more than", bound)
}

fn at_most(setting: Named, bound: Named) -> Result<(), ConfigError> {
    demand(setting.1 <= bound.1, setting, "at most", bound)
}

fn demand(
    holds: bool,
    (setting, value): Named,
    relation: &str,
    (other, bound): Named,
) -> Result<(), ConfigError> {
    let shown = |value: Duration| Ttl((value != NEVER).then_some(value));
    if holds {
        return Ok(());
    }
    let (value, bound) = (shown(value), shown(bound));
    let contradiction = format!("{setting} ({value}) must be {relation} {other} ({bound})");
    Err(ConfigError::Contradiction(contradiction))
}

/// Returns whether two addresses cannot be listened on with the same port. `::` includes all IPv4 addresses.
fn overlap(one: IpAddr, other: IpAddr) -> bool {
    let covers =
        |all: IpAddr, one: IpAddr| all.is_unspecified() && (all.is_ipv6() || one.is_ipv4());
    one == other || covers(one, other) || covers(other, one)
}
