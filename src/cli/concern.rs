//! Which settings concern which command.

/// Settings, by the names of their fields.
#[derive(Debug, Clone, Copy)]
pub(super) enum Concerned {
    All,
    Only(&'static [&'static str]),
}

impl Concerned {
    pub(super) fn shows(self, setting: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(settings) => settings.contains(&setting),
        }
    }
}

/// The settings that change what a command does.
pub(super) fn concerned(command: &str) -> Concerned {
    match command {
        "serve" | "config" => Concerned::All,
        "migrate" => Concerned::Only(&["log_format"]),
        "sweep" => {
            Concerned::Only(&["idempotency_response_ttl", "idempotency_key_ttl", "event_ttl"])
        }
        "healthcheck" => Concerned::Only(&["host", "port", "request_deadline"]),
        "storm" => Concerned::Only(&["host", "port"]),
        "api-key create" => Concerned::Only(&["idempotency_key_ttl", "request_deadline"]),
        "key show" => Concerned::Only(&["idempotency_key_ttl"]),
        "key void" => Concerned::Only(&[
            "idempotency_response_ttl",
            "idempotency_key_ttl",
            "in_flight_wait",
            "request_deadline",
            "allow_asynchronous_commit",
        ]),
        "webhook create" => Concerned::Only(&["webhook_allowed_networks"]),
        "payment list" | "payment show" | "events tail" => Concerned::Only(&["request_deadline"]),
        _ => Concerned::Only(&[]),
    }
}
