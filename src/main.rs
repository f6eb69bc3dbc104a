//! The `payonce` program; what it does is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    payonce::cli::run()
}
