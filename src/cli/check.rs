//! `floodmark check`: is the configuration right, and do the services answer?

use clap::Args;

use super::{ConfigArgs, Failure};

/// Validate a configuration and reach each service it names.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Exit codes:\n  0  all is well\n  2  the configuration is wrong: every mistake is printed\n  \
                        3  a service does not answer")]
pub struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
}

pub(super) fn run(args: &CheckArgs) -> Result<(), Failure> {
    let config = args.config.load(&[])?;
    match args.config.file() {
        Some(path) => println!("configuration  {} is right", path.display()),
        None => println!("configuration  defaults, environment and flags are right"),
    }
    for view in &config.view {
        println!("view           {}: by {}, windows of {}", view.name, view.key.join(", "), view.window);
    }
    Ok(())
}
