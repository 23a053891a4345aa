//! `floodmark completions`.

use std::io::Write;

use clap::Args;
use clap_complete::Shell;

use super::Failure;

/// Print a script that completes commands and flags in a shell.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:\n  \
                        floodmark completions bash > ~/.local/share/bash-completion/completions/floodmark\n  \
                        floodmark completions zsh > \"${fpath[1]}/_floodmark\"\n  \
                        floodmark completions fish > ~/.config/fish/completions/floodmark.fish")]
pub struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

pub(super) fn run(args: &CompletionsArgs, command: &mut clap::Command) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, command, "floodmark", &mut script);
    Ok(std::io::stdout().write_all(&script)?)
}
