//! `man`: manual pages, one a command.

use std::path::PathBuf;

use clap::Args;

use crate::failure::Failure;

/// Arguments of `man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Where the pages go, as ~/.local/share/man/man1; made if it is not there
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
}

/// Writes the pages of `command` and of those below it.
pub fn run(args: &ManArgs, command: clap::Command) -> Result<(), Failure> {
    let failed = |source| Failure::File {
        action: "write manual pages to",
        path: args.output.clone(),
        source,
    };
    std::fs::create_dir_all(&args.output).map_err(failed)?;
    clap_mangen::generate_to(command, &args.output).map_err(failed)
}
