//! `moeflux eval kl`: how far a model's beliefs are from another's, on a text.

use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};

use clap::Args;
use moeflux::evaluate::{best, divergence};
use serde_json::json;

use super::eval_text::{TextArgs, beliefs, each_belief};
use crate::args::ModelArgs;
use crate::failure::Failure;
use crate::interrupt;
use crate::model;
use crate::output;

/// Flags of `eval kl`.
#[derive(Debug, Args)]
pub struct KlArgs {
    /// The model to compare with: the original
    #[arg(conflicts_with = "model")]
    reference: String,
    /// The model that is judged: the same with other weights
    #[arg(conflicts_with = "model")]
    other: String,
    #[command(flatten)]
    text: TextArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelArgs,
}

/// Runs the command. One model after the other is in memory; the beliefs of the first wait in a
/// temporary file (four bytes a token of the text and of the vocabulary).
pub fn run(args: &KlArgs) -> Result<(), Failure> {
    if args.model.trace.is_some() {
        let problem = "--trace is for one model; record each with eval ppl";
        return Err(Failure::Usage(problem.to_owned()));
    }
    let dirs = [model::find(&args.reference)?, model::find(&args.other)?];
    let windows = args.text.windows(&dirs[0])?;
    if args.text.windows(&dirs[1])? != windows {
        let problem = "their tokenizers cut this text differently, so they cannot be compared";
        return Err(Failure::Input {
            path: args.text.path().to_owned(),
            problem: problem.to_owned(),
        });
    }
    // Said before the first model has gone through the text, which may take long.
    let vocab = moeflux::inspect(&dirs[0])?.vocab_size;
    let found = moeflux::inspect(&dirs[1])?.vocab_size;
    if found != vocab {
        let problem = format!("has {found} tokens, the other {vocab}");
        let path = dirs[1].clone();
        return Err(Failure::Input { path, problem });
    }
    let guard = interrupt::listen();
    let bar = output::count_bar(2 * beliefs(&windows), "tokens");
    let mut file = BufWriter::new(tempfile::tempfile().map_err(temporary)?);
    let engine = model::open_engine(&dirs[0], &args.model)?;
    each_belief(&engine, &windows, &guard, &mut |_, logits| {
        bar.inc(1);
        logits
            .iter()
            .try_for_each(|logit| file.write_all(&logit.to_le_bytes()))
            .map_err(temporary)
    })?;
    drop(engine);
    let mut file = file.into_inner().map_err(|error| temporary(error.into()))?;
    file.seek(SeekFrom::Start(0)).map_err(temporary)?;
    let mut file = BufReader::with_capacity(1 << 20, file);
    let engine = model::open_engine(&dirs[1], &args.model)?;
    let mut figures = Figures::default();
    let mut row = vec![0; vocab * 4];
    each_belief(&engine, &windows, &guard, &mut |_, logits| {
        bar.inc(1);
        file.read_exact(&mut row).map_err(temporary)?;
        let reference = row.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b));
        figures.add(&reference.collect::<Vec<f32>>(), logits);
        Ok(())
    })?;
    bar.finish_and_clear();
    figures.print(args.json, args.text.window())
}

fn temporary(source: std::io::Error) -> Failure {
    Failure::File {
        action: "use a temporary file in",
        path: std::env::temp_dir(),
        source,
    }
}

#[derive(Default)]
struct Figures {
    divergences: Vec<f64>,
    same_best: usize,
}

impl Figures {
    fn add(&mut self, reference: &[f32], other: &[f32]) {
        self.divergences.push(divergence(reference, other));
        self.same_best += usize::from(best(reference) == best(other));
    }

    fn print(mut self, as_json: bool, window: usize) -> Result<(), Failure> {
        self.divergences.sort_by(f64::total_cmp);
        let count = self.divergences.len();
        let mean = self.divergences.iter().sum::<f64>() / count as f64;
        // Of the mean, as if tokens were drawn one by one.
        let squares = self.divergences.iter().map(|nats| (nats - mean).powi(2));
        let uncertainty = squares.sum::<f64>().sqrt() / count as f64;
        let at = |share: f64| self.divergences[((count - 1) as f64 * share).round() as usize];
        let (median, high, most) = (at(0.5), at(0.99), at(1.0));
        let same = self.same_best as f64 / count as f64;
        if as_json {
            return output::json(&json!({
                "tokens": count,
                "window": window,
                "mean_nats": mean,
                "mean_standard_error_nats": uncertainty,
                "median_nats": median,
                "p99_nats": high,
                "max_nats": most,
                "same_top_1": same,
            }));
        }
        output::line(&format!(
            "KL divergence {mean:.3e} +- {uncertainty:.1e} nats in the mean, {median:.3e} at the median, {high:.3e} at \
             the 99th percentile, {most:.3e} at most; the same first choice at {:.2} % of {count} \
             tokens (windows of {window})",
            same * 100.0
        ))
    }
}
