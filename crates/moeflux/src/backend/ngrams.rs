//! Rows of a table by n-grams of tokens, on the host.

use moeflux_kernels::NgramRule;

use super::Step;
use crate::Error;
use crate::graph::{BufferId, BufferPool};
use crate::weights::RowTable;

/// Runs [`Op::NgramRows`](crate::graph::Op::NgramRows): the rows of `table` by n-grams of the step's
/// tokens and those before them, into the buffer `out`.
///
/// # Errors
/// [`Error::Internal`] if a session has fewer tokens than its span begins with; what reading the table
/// says.
pub fn ngram_rows(
    step: &Step<'_>,
    table: &RowTable,
    rule: &NgramRule,
    buffers: &mut BufferPool,
    out: BufferId,
) -> Result<(), Error> {
    let each = rule.rows();
    let mut rows = vec![0; step.tokens.len() * each];
    let mut history = Vec::new();
    for span in &step.spans {
        let past = span.session.tokens().get(..span.start);
        let past = past.ok_or_else(|| {
            let problem = "a session has fewer tokens than its step begins with";
            Error::Internal(problem.to_owned())
        })?;
        let known = rule.context().min(past.len());
        history.clear();
        history.extend_from_slice(&past[past.len() - known..]);
        history.extend_from_slice(&step.tokens[span.first_row..span.first_row + span.len]);
        for t in 0..span.len {
            let end = known + t + 1;
            let first = end.saturating_sub(rule.context() + 1);
            let into = &mut rows[(span.first_row + t) * each..][..each];
            rule.rows_of(&history[first..end], into)?;
        }
    }
    buffers.write(out, |_, out| table.read(&rows, out))
}
