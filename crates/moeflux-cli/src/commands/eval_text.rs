//! What the evaluations on a text share: the text as tokens, window by window.

use std::path::{Path, PathBuf};

use clap::Args;
use moeflux::text::TextFiles;
use moeflux::{Engine, Want};

use crate::failure::Failure;
use crate::interrupt::Guard;

/// The text, and how it is cut.
#[derive(Debug, Clone, Args)]
pub struct TextArgs {
    /// The text, UTF-8
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Tokens of a window: each begins without what came before
    #[arg(long, value_name = "N", default_value_t = 512,
          value_parser = clap::value_parser!(u32).range(2..))]
    window: u32,
    /// Most tokens of the text that are used [default: all]
    #[arg(long, value_name = "N")]
    tokens: Option<usize>,
}

impl TextArgs {
    /// The text's tokens by the tokenizer of the model at `dir`, at least two.
    pub fn tokens(&self, dir: &Path) -> Result<Vec<u32>, Failure> {
        let text = std::fs::read_to_string(&self.text).map_err(|source| Failure::File {
            action: "read",
            path: self.text.clone(),
            source,
        })?;
        let mut tokens = TextFiles::open(dir)?.tokenizer()?.encode(&text)?;
        tokens.truncate(self.tokens.unwrap_or(usize::MAX));
        if tokens.len() < 2 {
            return Err(Failure::Input {
                path: self.text.clone(),
                problem: format!(
                    "has {} tokens; an evaluation needs two or more",
                    tokens.len()
                ),
            });
        }
        Ok(tokens)
    }

    /// Tokens of a window.
    pub fn window(&self) -> usize {
        self.window as usize
    }

    /// The file, for messages.
    pub fn path(&self) -> &Path {
        &self.text
    }
}

/// Takes a token's place and its logits.
type OnRow<'a> = &'a mut dyn FnMut(usize, &[f32]) -> Result<(), Failure>;

/// Calls `row(place, logits)` for each token of `tokens` but the windows' last ones, with what the
/// engine believes of the next one.
pub fn each_belief(
    engine: &Engine,
    tokens: &[u32],
    window: usize,
    guard: &Guard,
    row: OnRow<'_>,
) -> Result<(), Failure> {
    let piece = engine.stats().memory.chunk_outputs.max(1);
    for (index, window_tokens) in tokens.chunks(window).enumerate() {
        let mut session = engine.session();
        let (first, last) = (index * window, window_tokens.len() - 1);
        let mut at = 0;
        // The last token's belief has nothing to be compared with.
        for part in window_tokens[..last].chunks(piece) {
            let logits = engine.prefill(&mut session, part, Want::All)?;
            for place in 0..logits.rows {
                row(first + at + place, logits.row(place))?;
            }
            at += part.len();
            if guard.stopped() {
                return Err(Failure::Interrupted);
            }
        }
    }
    Ok(())
}
