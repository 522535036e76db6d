//! A subcommand with flags of its own.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

/// Parses the arguments after `name`, and runs the subcommand with them.
pub fn run<A: Parser>(
    name: &str,
    arguments: &[String],
    subcommand: impl FnOnce(&A) -> Result<()>,
) -> ExitCode {
    let command = format!("cargo xtask {name}");
    let args = match A::try_parse_from(std::iter::once(&command).chain(arguments)) {
        Ok(args) => args,
        Err(error) => {
            // Nothing can be done about a closed terminal.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match subcommand(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask {name}: {error:#}");
            ExitCode::FAILURE
        }
    }
}
