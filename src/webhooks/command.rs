//! Requests for webhook endpoints that are executed exactly once.
//!
//! Their responses show a signing secret. The stored response has it encrypted, and [`reveal`] decrypts it in each
//! response that is sent. So a retry gets the same bytes, also after a rotation, and the database has no secret in clear
//! text.

use serde::Serialize;
use serde_json::{Map, Value};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    body::NewEndpoint,
    endpoint::{EventTypes, MAX_ENDPOINTS, Range},
    owner::{self, Rotation},
    secrets::{Keyring, OpenError, Sealed, Secret},
};
use crate::{
    db::timestamp::Timestamp,
    http::problem::{Kind, Problem, Retry},
    idempotency::{Command, Error, Execution, Fingerprint, Operation, Response},
    ids::{AccountId, EndpointId},
};

/// The request to create an endpoint.
pub struct CreateEndpoint {
    /// The fields of the body.
    pub new: NewEndpoint,
    /// Its signing secret: the same, however often the command is executed.
    pub secret: Secret,
    /// Encrypts the secret.
    pub keyring: Keyring,
}

/// The request to replace the signing secret of an endpoint.
pub struct RotateSecret {
    /// The endpoint.
    pub endpoint_id: EndpointId,
    /// The new secret.
    pub secret: Secret,
    /// Encrypts the secret.
    pub keyring: Keyring,
}

/// The request to send events once more.
#[derive(Debug, Clone, Copy)]
pub struct ReplayEvents {
    /// The endpoint.
    pub endpoint_id: EndpointId,
    /// Their positions.
    pub range: Range,
}

/// A new endpoint.
#[derive(Debug, Serialize)]
pub struct Created<'a> {
    /// Its id.
    pub endpoint_id: EndpointId,
    /// Its URL.
    pub url: &'a str,
    /// Its types of events.
    pub event_types: &'a EventTypes,
    /// Its description.
    pub description: &'a str,
    /// True if events are sent.
    pub enabled: bool,
    /// When it was created.
    pub created_at: Timestamp,
    /// Its signing secret, encrypted in the stored response.
    pub secret: String,
}

/// A rotated secret.
#[derive(Debug, Serialize)]
pub struct Rotated {
    /// The endpoint.
    pub endpoint_id: EndpointId,
    /// The new signing secret, encrypted in the stored response.
    pub secret: String,
    /// Until when the previous secret signs as well.
    pub previous_secret_until: Option<Timestamp>,
}

/// A replay that has begun.
#[derive(Debug, Serialize)]
pub struct Replaying {
    /// The endpoint.
    pub endpoint_id: EndpointId,
    /// The positions that are sent once more.
    pub replay: Range,
}

/// The path of an endpoint.
#[must_use]
pub fn location(endpoint_id: EndpointId) -> String {
    format!("/webhook-endpoint/{endpoint_id}")
}

impl Command for CreateEndpoint {
    const OPERATION: Operation = Operation::new("create-webhook-endpoint");

    fn fingerprint(&self) -> Fingerprint {
        let NewEndpoint { url, event_types, description, enabled } = &self.new;
        let event_types = event_types.as_ref().map(|types| {
            types.codes().iter().flat_map(|code| code.to_be_bytes()).collect::<Vec<u8>>()
        });
        Fingerprint::of(Self::OPERATION)
            .field("url", url.as_bytes())
            .optional("event_types", event_types.as_deref())
            .optional("description", description.as_ref().map(String::as_bytes))
            .optional(
                "enabled",
                enabled.map(|enabled| [u8::from(enabled)]).as_ref().map(<[u8; 1]>::as_slice),
            )
    }

    async fn execute(
        &self,
        execution: Execution,
        conn: &mut PgConnection,
    ) -> Result<Response, Error> {
        let (account_id, endpoint_id) = (execution.account_id, execution.id.into());
        let sealed =
            self.keyring.seal(account_id, endpoint_id, &self.secret).map_err(Error::other)?;
        let ids = (account_id, endpoint_id);
        let created = owner::create(conn, ids, &self.new, &sealed).await?;
        let Some(created_at) = created else {
            return too_many().stored(execution.id).map_err(Error::other);
        };
        let NewEndpoint { url, event_types, description, enabled } = &self.new;
        success(
            201,
            endpoint_id,
            &Created {
                endpoint_id,
                url,
                event_types: event_types.as_ref().unwrap_or(&EventTypes::ALL),
                description: description.as_deref().unwrap_or_default(),
                enabled: enabled.unwrap_or(true),
                created_at,
                secret: sealed.to_string(),
            },
        )
    }
}

impl Command for RotateSecret {
    const OPERATION: Operation = Operation::new("rotate-webhook-secret");

    fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(Self::OPERATION)
            .field("endpoint_id", Uuid::from(self.endpoint_id).as_bytes())
    }

    async fn execute(
        &self,
        execution: Execution,
        conn: &mut PgConnection,
    ) -> Result<Response, Error> {
        let endpoint_id = self.endpoint_id;
        let ids = (execution.account_id, endpoint_id);
        let rotated = owner::rotate(conn, &self.keyring, ids, &self.secret).await?;
        let Some(Rotation { sealed, previous_until }) = rotated else {
            return no_such_endpoint().stored(execution.id).map_err(Error::other);
        };
        let rotated = Rotated {
            endpoint_id,
            secret: sealed.to_string(),
            previous_secret_until: previous_until,
        };
        success(200, endpoint_id, &rotated)
    }
}

impl Command for ReplayEvents {
    const OPERATION: Operation = Operation::new("replay-webhook-events");

    fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(Self::OPERATION)
            .field("endpoint_id", Uuid::from(self.endpoint_id).as_bytes())
            .field("from", &self.range.from.number().to_be_bytes())
            .field("to", &self.range.to.number().to_be_bytes())
    }

    async fn execute(
        &self,
        execution: Execution,
        conn: &mut PgConnection,
    ) -> Result<Response, Error> {
        let Self { endpoint_id, range } = *self;
        if !owner::replay(conn, execution.account_id, endpoint_id, range).await? {
            return no_such_endpoint().stored(execution.id).map_err(Error::other);
        }
        success(200, endpoint_id, &Replaying { endpoint_id, replay: range })
    }
}

fn success(status: u16, endpoint_id: EndpointId, body: &impl Serialize) -> Result<Response, Error> {
    let body = serde_json::to_vec(body).map_err(Error::other)?;
    Ok(Response::new(status, body).with_header("location", location(endpoint_id)))
}

/// Stored, so that retries agree.
fn too_many() -> Problem {
    Problem::new(Kind::TooManyWebhookEndpoints)
}

/// Stored: the key stays refused.
pub(crate) fn no_such_endpoint() -> Problem {
    Problem::new(Kind::NotFound).with_retry(Retry::NewKey).with_detail(format!(
        "This account has no webhook endpoint with this id. Nothing was changed with this key, and nothing will be: it \
         stays refused. GET /webhook-endpoint lists up to {MAX_ENDPOINTS} endpoints. Send a corrected request with a \
         new key."
    ))
}

/// Decrypts the secret in a stored response. Refusals have none.
///
/// # Errors
/// When `WEBHOOK_SECRET` no longer has the key.
pub fn reveal(
    keyring: &Keyring,
    account_id: AccountId,
    stored: Response,
) -> Result<Response, OpenError> {
    let Ok(mut body) = serde_json::from_slice::<Map<String, Value>>(stored.body()) else {
        return Ok(stored);
    };
    let text = |name: &str| body.get(name).and_then(Value::as_str);
    let endpoint_id = text("endpoint_id").and_then(|id| id.parse::<EndpointId>().ok());
    let sealed = text("secret").and_then(|secret| secret.parse::<Sealed>().ok());
    let Some((endpoint_id, sealed)) = endpoint_id.zip(sealed) else { return Ok(stored) };
    let secret = keyring.open(account_id, endpoint_id, &sealed)?;
    body.insert("secret".to_owned(), Value::from(secret.reveal().as_str()));
    let mut revealed = Response::new(stored.status(), Value::Object(body).to_string());
    for (name, value) in stored.headers() {
        revealed = revealed.with_header(name, value);
    }
    Ok(revealed)
}
