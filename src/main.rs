//! The `floodmark` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    floodmark::cli::main()
}
