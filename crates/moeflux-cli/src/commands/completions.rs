//! `completions`: a script that completes commands and flags in a shell.

use clap::Args;
use clap_complete::Shell;

use crate::failure::Failure;
use crate::output;

/// Arguments of `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell, as `moeflux completions bash > ~/.local/share/bash-completion/completions/moeflux`
    shell: Shell,
}

/// Writes the script of `command` to standard output.
pub fn run(args: &CompletionsArgs, mut command: clap::Command) -> Result<(), Failure> {
    let mut script = Vec::new();
    let name = command.get_name().to_owned();
    clap_complete::generate(args.shell, &mut command, name, &mut script);
    output::write(&String::from_utf8_lossy(&script))
}
