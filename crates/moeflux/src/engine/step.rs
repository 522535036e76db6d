//! What goes into a step and what comes out: spans of tokens, and logits.

use crate::backend::{Step, StepSpan};
use crate::session::Session;

/// Which positions of a span want logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// None.
    None,
    /// The last.
    Last,
    /// All.
    All,
}

/// Tokens to run for one session in a step.
pub struct Span<'a> {
    /// The session that they continue.
    pub session: &'a mut Session,
    /// The tokens, at least one.
    pub tokens: &'a [u32],
    /// Which of them want logits.
    pub want: Want,
    /// Whether they are of a prompt, for which a backend may have kernels of its own: its results
    /// are then the same however the prompt is cut into steps, but not those of tokens that are
    /// not of a prompt. On the processor they are.
    pub is_prompt: bool,
}

/// Logits `[rows, vocab]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Logits {
    /// Number of positions.
    pub rows: usize,
    /// Tokens in the vocabulary.
    pub vocab: usize,
    /// The values, row by row.
    pub values: Vec<f32>,
}

/// What follows a token if the most likely token does.
#[derive(Clone, Debug, PartialEq)]
pub enum Best {
    /// That token.
    Token(u32),
    /// The logits, from which it is to be found.
    Logits(Logits),
}

impl Logits {
    /// The logits of one position; empty if there is no such row.
    pub fn row(&self, row: usize) -> &[f32] {
        self.values
            .get(row * self.vocab..(row + 1) * self.vocab)
            .unwrap_or(&[])
    }

    /// The logits of the last position; empty if there are none.
    pub fn last(&self) -> &[f32] {
        self.row(self.rows.wrapping_sub(1))
    }
}

impl Span<'_> {
    pub(super) fn outputs(&self) -> usize {
        match self.want {
            Want::None => 0,
            Want::Last => 1,
            Want::All => self.tokens.len(),
        }
    }
}

/// The rows of a step.
pub(super) struct Rowset {
    pub tokens: Vec<u32>,
    pub positions: Vec<u32>,
    pub outputs: Vec<u32>,
}

impl Rowset {
    pub fn of(spans: &[Span<'_>]) -> Rowset {
        let mut rows = Rowset {
            tokens: Vec::new(),
            positions: Vec::new(),
            outputs: Vec::new(),
        };
        for span in spans {
            let start = span.session.len();
            rows.tokens.extend_from_slice(span.tokens);
            rows.positions
                .extend((start..start + span.tokens.len()).map(|p| p as u32));
            let end = rows.tokens.len();
            rows.outputs
                .extend((end - span.outputs()..end).map(|r| r as u32));
        }
        rows
    }

    /// The step of these rows; `spans` are those that the rows are of.
    pub fn step<'a>(&'a self, spans: &'a mut [Span<'_>]) -> Step<'a> {
        let mut step = Step {
            spans: Vec::with_capacity(spans.len()),
            tokens: &self.tokens,
            positions: &self.positions,
            outputs: &self.outputs,
        };
        let mut first_row = 0;
        for span in spans {
            let (start, len) = (span.session.len(), span.tokens.len());
            step.spans.push(StepSpan {
                session: &mut *span.session,
                start,
                first_row,
                len,
                is_prompt: span.is_prompt,
            });
            first_row += len;
        }
        step
    }
}
