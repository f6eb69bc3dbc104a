//! Every setting: read from flags, the environment and `.env`, in this order, and validated once.

mod database_url;
mod dot_env;
mod error;
mod settings;
mod validate;
mod values;
mod variables;

pub use database_url::{database, shown};
pub use dot_env::read_dot_env;
pub use error::{ConfigError, UrlFault};
pub use settings::Settings;
pub(crate) use values::duration;
pub use values::{Switch, Ttl};
pub use variables::{log_filter, metrics_token, webhook_secret};
