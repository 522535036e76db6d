//! `cargo xtask soak`: the test `soak` of the engine, which disturbs it in every way there is, for
//! minutes instead of seconds.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::Parser;

/// Answers prompts of the demo model while reads fail, files are replaced and memory is taken away
#[derive(Debug, Parser)]
#[command(name = "cargo xtask soak")]
struct Args {
    /// How long
    #[arg(long, value_name = "N", default_value_t = 20.0)]
    minutes: f64,
    /// Chooses what happens
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u32,
}

/// Runs the command with the arguments after `soak`, with this cargo.
pub fn run(arguments: &[String], cargo: &str) -> ExitCode {
    crate::command::run("soak", arguments, |args: &Args| soak(args, cargo))
}

fn soak(args: &Args, cargo: &str) -> Result<()> {
    if !(args.minutes.is_finite() && (0.0..=10_000.0).contains(&args.minutes)) {
        bail!("--minutes {} is not between 0 and 10000", args.minutes);
    }
    let mut command = Command::new(cargo);
    command
        .args(["test", "--release", "--package", "moeflux", "--test"])
        .args(["soak", "--", "--nocapture"])
        .env("MOEFLUX_SOAK_MINUTES", args.minutes.to_string())
        .env("MOEFLUX_SOAK_SEED", args.seed.to_string());
    let status = command
        .status()
        .with_context(|| format!("cannot start {command:?}"))?;
    if !status.success() {
        bail!("the soak failed; its output names the seed and the round");
    }
    Ok(())
}
