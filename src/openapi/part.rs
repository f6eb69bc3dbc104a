//! The part of the description that stands in a feature's folder.

use serde_json::{Value, json};

use super::operation::Operation;
use crate::routes::DESCRIBED;

/// A feature's operations, and its bodies by the names of their schemas.
pub(crate) struct Part {
    pub(crate) operations: &'static [Operation],
    pub(crate) schemas: fn() -> Value,
    pub(crate) examples: fn() -> Value,
}

/// The id of the payment in all examples.
pub(crate) const TRANSACTION_ID: &str = "01a20b8e-f5ef-76cd-ab8e-bedcccfd17b0";

/// The id of its refund.
pub(crate) const REFUND_ID: &str = "01a20b8f-0c3a-7d11-9b57-0e6f2a4c8d35";

/// The id of a webhook endpoint.
pub(crate) const ENDPOINT_ID: &str = "01a20b90-6f2e-7c51-8d4a-2b7f9e3c1a60";

/// A part without bodies of its own.
pub(crate) fn nothing() -> Value {
    json!({})
}

/// The example of the schema of this name.
pub(super) fn example_of(schema: &str) -> Value {
    DESCRIBED
        .iter()
        .find_map(|part| (part.examples)().get_mut(schema).map(Value::take))
        .unwrap_or_default()
}
