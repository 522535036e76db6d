//! `moeflux trace`: what a trace shows, and what each policy would have made of it.

mod chart;
mod replay;
mod show;

use clap::Subcommand;

use crate::failure::Failure;

/// The subcommands of `trace`.
#[derive(Debug, Subcommand)]
pub enum TraceCommand {
    /// Describe a trace: tokens, how unevenly experts are used, and how soon again
    Show(show::ShowArgs),
    /// Replay traces under every policy and over a range of memory sizes
    Replay(replay::ReplayArgs),
}

/// Runs the command.
pub fn run(command: &TraceCommand) -> Result<(), Failure> {
    match command {
        TraceCommand::Show(args) => show::run(args),
        TraceCommand::Replay(args) => replay::run(args),
    }
}
