//! `moeflux pack`: a checkpoint to a packed model directory.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use moeflux::PackOptions;

use crate::failure::Failure;
use crate::output;
use crate::size;

/// The part of the help about codecs.
const WHY: &str = "\
Kept at more bits, and why:
    router, gate of the shared expert    8: a wrong expert costs more than their few bytes
    embedding                            8: a token reads one row, so it costs no speed
    output head                          8: every token's choice passes through it
    attention and shared experts         at least 4: every token uses them
    norms and other vectors              as in the source
16 keeps floats as in the source, and keep keeps whatever codec is there, byte for byte. Integers that
take no more bytes in the source than they would as asked stay as they are. A run that was interrupted
resumes when it is repeated.";

/// Flags of `pack`.
#[derive(Debug, Args)]
#[command(after_help = WHY)]
pub struct PackArgs {
    /// The checkpoint's directory or GGUF file, in any form that run opens
    source: PathBuf,
    /// The directory to make; it must not exist
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    #[command(flatten)]
    how: HowToPack,
    /// Round by how much each column of a matrix weighs, from a file that moeflux eval importance
    /// wrote for this model
    #[arg(long, value_name = "FILE")]
    importance: Option<PathBuf>,
    /// Threads [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

/// Which codec tensors get.
#[derive(Debug, Clone, Args)]
pub struct HowToPack {
    /// Bits of routed experts: 2, 3, 4, 5, 6, 8, 16 for floats as they are, or keep [default: 4]
    #[arg(long, value_parser = bits)]
    bits: Option<u32>,
    /// Weights that share a scale: 32, 64 or 128; 256 for blocks of GGUF's at 4 and 5 bits (Q4_K,
    /// IQ4_NL, Q5_K), which take the bytes of 64, lose less and compute slower [default: 64]
    #[arg(long)]
    group: Option<usize>,
    /// Bits of attention and shared experts [default: as --bits, at least 4]
    #[arg(long, value_parser = bits)]
    dense_bits: Option<u32>,
    /// Bits of the output head [default: 8]
    #[arg(long, value_parser = bits)]
    head_bits: Option<u32>,
}

impl HowToPack {
    /// The flag that is given, if one is.
    pub fn given(&self) -> Option<&'static str> {
        let flags = [
            ("--bits", self.bits.is_some()),
            ("--group", self.group.is_some()),
            ("--dense-bits", self.dense_bits.is_some()),
            ("--head-bits", self.head_bits.is_some()),
        ];
        flags
            .into_iter()
            .find_map(|(flag, given)| given.then_some(flag))
    }

    /// The library's options.
    pub fn options(&self, threads: Option<u16>) -> PackOptions {
        let default = PackOptions::default();
        PackOptions {
            bits: self.bits.unwrap_or(default.bits),
            group: self.group,
            dense_bits: self.dense_bits,
            head_bits: self.head_bits,
            threads: threads.map(usize::from),
            ..default
        }
    }
}

/// A number of bits, or `keep`.
fn bits(text: &str) -> Result<u32, String> {
    match text {
        "keep" => Ok(PackOptions::KEEP),
        number => number
            .parse()
            .map_err(|_| "give a number of bits, or keep".to_owned()),
    }
}

/// Runs the command.
pub fn run(args: &PackArgs) -> Result<(), Failure> {
    let options = PackOptions {
        importance: args.importance.clone(),
        ..args.how.options(args.threads)
    };
    let start = Instant::now();
    let bar = output::bytes_bar(0);
    let report = moeflux::pack(&args.source, &args.output, &options, &mut |progress| {
        if bar.length() != Some(progress.total_bytes) {
            bar.set_length(progress.total_bytes);
            // Work of an earlier run is no part of this one's throughput.
            bar.set_position(progress.resumed_bytes);
            bar.reset_eta();
        }
        bar.set_position(progress.done_bytes);
        if bar.message() != progress.stage {
            bar.set_message(progress.stage);
        }
    });
    bar.finish_and_clear();
    let report = report?;
    let seconds = start.elapsed().as_secs_f64();
    if report.started_over {
        output::note("an unfinished pack of another source or with other options was discarded");
    }
    if report.resumed_files > 0 {
        output::note(&format!(
            "{} files were finished by an earlier run",
            report.resumed_files
        ));
    }
    output::note(&format!(
        "{}: {} from {} in {seconds:.1} s, {} files, verified",
        args.output.display(),
        size::show(report.packed_bytes),
        size::show(report.source_bytes),
        report.files,
    ));
    Ok(())
}
