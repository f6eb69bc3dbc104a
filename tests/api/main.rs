//! What clients may rely on, in sentences, over HTTP, on real PostgreSQL.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "tests fail loudly"
)]

use payonce_testing as support;

mod layer;
