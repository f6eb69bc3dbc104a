//! HTTP, for every endpoint: connections, the middleware around all requests, JSON and query reading, idempotent
//! requests, problems, and the request log.

mod connection;
mod context;
pub mod idempotent;
pub mod json;
mod listen;
pub mod middleware;
pub mod problem;
pub mod query;
pub mod repeatable;
mod request_log;
mod turn;

pub use self::context::RequestContext;
pub use self::listen::{Connections, listen};
