//! `moeflux pull`: a model from a Hugging Face hub.

use std::env;
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use moeflux_hub::{Access, PullOptions, Repo};

use super::pack::HowToPack;
use super::pull_pack;
use crate::failure::Failure;
use crate::output;
use crate::size;

/// The part of the help about the hub.
const ENVIRONMENT: &str = "\
Fetched are config, tokenizer, template and the safetensors that the index lists, or the only GGUF
model of the repository. Every file is checked against the hub's checksum before it gets its name.
An interrupted download goes on when it is repeated. With --pack, shards wait in DIR.pull until they are
packed, and go; what is not of routed experts stays there till the end.

HF_ENDPOINT names another hub. A token is taken from HF_TOKEN, from the file in HF_TOKEN_PATH, or
from token under HF_HOME or ~/.cache/huggingface. Servers are believed by Mozilla's certificates, or
by those in SSL_CERT_FILE.";

/// Flags of `pull`.
#[derive(Debug, Args)]
#[command(after_help = ENVIRONMENT)]
pub struct PullArgs {
    /// The repository, as Qwen/Qwen3-30B-A3B
    #[arg(value_name = "OWNER/NAME")]
    repo: Repo,
    /// A branch, tag or commit
    #[arg(long, default_value = "main")]
    revision: String,
    /// A file of the repository, with the other parts if it is one of several; may be repeated
    #[arg(long, value_name = "NAME")]
    file: Vec<String>,
    /// The directory to fill [default: NAME under $MOEFLUX_MODELS, or under ./models]
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Pack what comes, shard by shard, as `moeflux pack` does: the original never has to fit on the
    /// disk
    #[arg(long, conflicts_with = "file")]
    pack: bool,
    #[command(flatten)]
    how: HowToPack,
    /// Files fetched at a time; shards that are packed come one after another
    #[arg(long, value_name = "N", default_value_t = 4,
          value_parser = clap::value_parser!(u16).range(1..=64))]
    connections: u16,
}

/// Runs the command.
pub fn run(args: &PullArgs) -> Result<(), Failure> {
    let folder = || env::var_os("MOEFLUX_MODELS").map_or_else(|| "models".into(), PathBuf::from);
    let default = || folder().join(args.repo.name());
    let destination = args.output.clone().unwrap_or_else(default);
    let options = PullOptions {
        repo: args.repo.clone(),
        revision: args.revision.clone(),
        files: args.file.clone(),
        access: Access::from_environment(),
        connections: usize::from(args.connections),
    };
    if args.pack {
        return pull_pack::run(&options, &args.how.options(None), &destination);
    }
    if let Some(flag) = args.how.given() {
        return Err(Failure::Usage(format!(
            "{flag} says how to pack; give --pack too"
        )));
    }
    let start = Instant::now();
    let bar = output::bytes_bar(0);
    let mut has_begun = false;
    let report = moeflux_hub::pull(&options, &destination, &mut |progress| {
        if bar.length() != Some(progress.total_bytes) {
            bar.set_length(progress.total_bytes);
        }
        if !has_begun {
            // What was here already is no part of this run's throughput.
            has_begun = true;
            bar.set_position(progress.done_bytes);
            bar.reset_eta();
        }
        bar.set_position(progress.done_bytes);
    });
    bar.finish_and_clear();
    let report = report?;
    output::note(&format!(
        "{}: {} files, {}, of commit {}, checked, in {:.1} s",
        destination.display(),
        report.files.len(),
        size::show(report.bytes),
        report.commit.get(..12).unwrap_or(&report.commit),
        start.elapsed().as_secs_f64(),
    ));
    Ok(())
}
