//! `moeflux eval logits`: the model's logits of given tokens, as a safetensors file.

use std::path::PathBuf;

use clap::Args;
use moeflux::Want;
use moeflux::formats::{DType, write_safetensors};

use crate::args::ModelArgs;
use crate::failure::Failure;
use crate::interrupt;
use crate::model;
use crate::output;

/// Flags of `eval logits`.
#[derive(Debug, Args)]
pub struct LogitsArgs {
    /// Token ids, separated by commas
    #[arg(long, value_delimiter = ',', required = true, value_name = "ID,ID,...")]
    tokens: Vec<u32>,
    /// Feed the tokens one by one instead of at once
    #[arg(long)]
    stepwise: bool,
    /// The file to write: one tensor `logits`, f32 [tokens, vocabulary]
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    model: ModelArgs,
}

/// Runs the command.
pub fn run(args: &LogitsArgs) -> Result<(), Failure> {
    let engine = model::open_engine(&model::find(&args.model.model)?, &args.model)?;
    let mut session = engine.session();
    let vocab = engine.info().vocab_size;
    // All tokens are checked before any is computed.
    for (position, token) in args.tokens.iter().copied().enumerate() {
        if token as usize >= vocab {
            return Err(moeflux::Error::Token {
                token,
                position,
                vocab,
            }
            .into());
        }
    }
    if args.tokens.len() > session.context_tokens() {
        let (tokens, limit) = (args.tokens.len(), session.context_tokens());
        return Err(moeflux::Error::ContextExceeded { tokens, limit }.into());
    }
    let guard = interrupt::listen();
    let mut bytes = Vec::new();
    let piece = if args.stepwise {
        1
    } else {
        engine.chunk_tokens()
    };
    let bar = output::count_bar(args.tokens.len() as u64, "tokens");
    for tokens in args.tokens.chunks(piece) {
        let logits = engine.prefill(&mut session, tokens, Want::All)?;
        bytes.extend(logits.values.iter().flat_map(|value| value.to_le_bytes()));
        bar.inc(tokens.len() as u64);
        if guard.stopped() {
            return Err(Failure::Interrupted);
        }
    }
    bar.finish_and_clear();
    let shape = [args.tokens.len(), vocab];
    write_safetensors(&args.output, &[("logits", DType::F32, &shape, &bytes)])?;
    Ok(())
}
