//! What the evaluations on a text share: the text as tokens, window by window.

use std::path::{Path, PathBuf};

use clap::Args;
use moeflux::text::TextFiles;
use moeflux::{Engine, Want};

use crate::failure::Failure;
use crate::interrupt::Guard;

/// What divides a text into documents.
const DOCUMENT_END: char = '\u{c}';

/// The text, and how it is cut.
#[derive(Debug, Clone, Args)]
pub struct TextArgs {
    /// The text, UTF-8; form feeds divide it into documents, each in windows of its own
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
    /// The tokens of the text's windows by the tokenizer of the model at `dir`, two or more each.
    pub fn windows(&self, dir: &Path) -> Result<Vec<Vec<u32>>, Failure> {
        let text = std::fs::read_to_string(&self.text).map_err(|source| Failure::File {
            action: "read",
            path: self.text.clone(),
            source,
        })?;
        let tokenizer = TextFiles::open(dir)?.tokenizer()?;
        let mut left = self.tokens.unwrap_or(usize::MAX);
        let mut windows = Vec::new();
        for document in text.split(DOCUMENT_END) {
            let mut tokens = tokenizer.encode(document)?;
            tokens.truncate(left);
            left -= tokens.len();
            // One alone has nothing that its belief could be compared with.
            let parts = tokens.chunks(self.window()).filter(|part| part.len() > 1);
            windows.extend(parts.map(<[u32]>::to_vec));
        }
        if windows.is_empty() {
            return Err(Failure::Input {
                path: self.text.clone(),
                problem: "has no two tokens in a row; an evaluation needs two or more".to_owned(),
            });
        }
        Ok(windows)
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

/// How many tokens are believed something of.
pub fn beliefs(windows: &[Vec<u32>]) -> u64 {
    windows.iter().map(|window| window.len() as u64 - 1).sum()
}

/// Takes a token and what the engine believed of it, as logits.
type OnRow<'a> = &'a mut dyn FnMut(u32, &[f32]) -> Result<(), Failure>;

/// Calls `row` for each token but the windows' first ones.
pub fn each_belief(
    engine: &Engine,
    windows: &[Vec<u32>],
    guard: &Guard,
    row: OnRow<'_>,
) -> Result<(), Failure> {
    let piece = engine.stats().memory.chunk_outputs.max(1);
    for window in windows {
        let mut session = engine.session();
        let mut next = window[1..].iter();
        for part in window[..window.len() - 1].chunks(piece) {
            let logits = engine.prefill(&mut session, part, Want::All)?;
            for (place, token) in (0..logits.rows).zip(next.by_ref()) {
                row(*token, logits.row(place))?;
            }
            if guard.stopped() {
                return Err(Failure::Interrupted);
            }
        }
    }
    Ok(())
}
