//! `moeflux eval logits`: the model's logits of given tokens, as a safetensors file.

use std::path::{Path, PathBuf};

use clap::Args;
use moeflux::formats::{DType, SafetensorsWriter, TensorSpec};
use moeflux::{Engine, Session, Want};

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
    let mut partial = args.output.clone().into_os_string();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let written = write(args, &engine, &mut session, &partial);
    if written.is_err() {
        // The failure is what matters; a leftover is harmless.
        let _ = std::fs::remove_file(&partial);
        return written;
    }
    std::fs::rename(&partial, &args.output).map_err(|source| Failure::File {
        action: "write",
        path: args.output.clone(),
        source,
    })
}

/// Computes and writes piece by piece, so that memory does not grow with the number of tokens.
fn write(
    args: &LogitsArgs,
    engine: &Engine,
    session: &mut Session,
    path: &Path,
) -> Result<(), Failure> {
    let shape = [args.tokens.len(), engine.info().vocab_size];
    let spec = TensorSpec::new("logits", DType::F32, shape);
    let mut writer = SafetensorsWriter::create(path, &[spec], 8)?;
    let guard = interrupt::listen();
    let piece = if args.stepwise {
        1
    } else {
        engine.stats().memory.chunk_outputs
    };
    let bar = output::count_bar(args.tokens.len() as u64, "tokens");
    for tokens in args.tokens.chunks(piece) {
        let logits = engine.prefill(session, tokens, Want::All)?;
        for values in logits.values.chunks(1 << 14) {
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            writer.write(&bytes)?;
        }
        bar.inc(tokens.len() as u64);
        if guard.stopped() {
            return Err(Failure::Interrupted);
        }
    }
    bar.finish_and_clear();
    writer.finish()?;
    Ok(())
}
