//! The `payonce` program. The library contains everything.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// An HTTP thread allocates a payment's memory and a committer's thread frees it, which is slow with the C library's
/// allocator (docs/decisions/0002-group-commit.md).
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    payonce::cli::run()
}
