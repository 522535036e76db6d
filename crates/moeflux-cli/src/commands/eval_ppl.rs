//! `moeflux eval ppl`: how surprising a text is to a model.

use clap::Args;
use moeflux::evaluate::surprise;
use serde_json::json;

use super::eval_text::{TextArgs, beliefs, each_belief};
use crate::args::ModelArgs;
use crate::failure::Failure;
use crate::interrupt;
use crate::model;
use crate::output;

/// Flags of `eval ppl`.
#[derive(Debug, Args)]
pub struct PplArgs {
    #[command(flatten)]
    text: TextArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelArgs,
}

/// Runs the command.
pub fn run(args: &PplArgs) -> Result<(), Failure> {
    let dir = model::find(&args.model.model)?;
    let windows = args.text.windows(&dir)?;
    let engine = model::open_engine(&dir, &args.model)?;
    let (guard, window) = (interrupt::listen(), args.text.window());
    let bar = output::count_bar(beliefs(&windows), "tokens");
    let (mut nats, mut count) = (0.0, 0u64);
    each_belief(&engine, &windows, &guard, &mut |token, logits| {
        nats += surprise(logits, token);
        count += 1;
        bar.inc(1);
        Ok(())
    })?;
    bar.finish_and_clear();
    let mean = nats / count as f64;
    if args.json {
        return output::json(&json!({
            "tokens": count,
            "window": window,
            "nats_per_token": mean,
            "perplexity": mean.exp(),
        }));
    }
    output::line(&format!(
        "perplexity {:.4} ({mean:.5} nats a token) over {count} tokens in windows of {window}",
        mean.exp()
    ))
}
