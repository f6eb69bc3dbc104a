//! The `payonce` program; what it does is in the library.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// A payment's memory is had on the thread that speaks HTTP and given back on the one that commits, which
/// the C library's allocator is slow at (docs/decisions/0009-threads-and-allocator.md).
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    payonce::cli::run()
}
