//! `floodmark config`: the configuration as text.

use std::io::Write;

use clap::Args;

use super::{ConfigArgs, Failure};
use crate::config::{Config, render};

/// Print the effective configuration, commented.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Examples:\n  floodmark config -c floodmark.toml              what is in effect, secrets as ***\n  \
                        floodmark config --defaults > floodmark.toml    a file to start from"
)]
pub struct ShowArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print every key with its default instead, parts not in use commented out
    #[arg(long, conflicts_with_all = ["config", "set"])]
    defaults: bool,
    /// Print the reference of every key as Markdown instead
    #[arg(long, conflicts_with_all = ["config", "set", "defaults"])]
    reference: bool,
}

pub(super) fn run(args: &ShowArgs) -> Result<(), Failure> {
    let text = if args.reference {
        render::reference()
    } else if args.defaults {
        render::toml(&Config::default(), true)?
    } else {
        render::toml(&args.config.load_unchecked()?, false)?
    };
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}
