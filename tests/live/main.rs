//! Tests against real services. Without them they do not run, and the last line says which: see `support`.

mod kafka;
mod support;

fn main() -> std::process::ExitCode {
    support::run(&kafka::tests())
}
