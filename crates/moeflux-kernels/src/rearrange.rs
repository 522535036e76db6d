//! Rows put together from pieces of other rows: splits, joins and new orders of heads.

use crate::{Cpu, KernelError, check, disjoint::Disjoint};

/// Elements that are worth a task.
const GRAIN: usize = 16384;

/// Consecutive elements of a row of one input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Which input.
    pub input: usize,
    /// Its first element in the input's row.
    pub start: usize,
    /// Number of elements.
    pub len: usize,
}

/// Checks sizes; gives the number of rows and the width of a result.
pub(crate) fn check(
    inputs: &[&[f32]],
    pieces: &[Piece],
    out: &[f32],
) -> Result<(usize, usize), KernelError> {
    const OP: &str = "rearrange";
    let width = pieces
        .iter()
        .fold(0usize, |sum, p| sum.saturating_add(p.len));
    let n = check::rows(OP, "out", out.len(), width)?;
    if n == 0 {
        for input in inputs {
            check::size(OP, "an input", 0, input.len())?;
        }
        return Ok((0, width));
    }
    for piece in pieces {
        check::index(OP, "input of a piece", piece.input, inputs.len())?;
        let input = inputs[piece.input].len();
        // As many rows as the result has.
        check::multiple(OP, "an input", input, n)?;
        let end = piece.start.saturating_add(piece.len);
        check::index(OP, "end of a piece", end, input / n + 1)?;
    }
    Ok((n, width))
}

impl Cpu {
    /// Row t of `out` is the `pieces` of rows t of `inputs`, one after another. Elements are
    /// copied, nothing is computed.
    ///
    /// # Errors
    /// If `out` is not of whole rows, an input has another number of rows, or a piece leaves its
    /// input's row.
    pub fn rearrange(
        &self,
        inputs: &[&[f32]],
        pieces: &[Piece],
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        let (n, width) = check(inputs, pieces, out)?;
        let out = Disjoint::new(out);
        self.split(n, GRAIN / width, &|first, end| {
            for t in first..end {
                // SAFETY: each row has one task.
                let mut rest = unsafe { out.part(t * width, width) };
                for piece in pieces {
                    let (to, tail) = rest.split_at_mut(piece.len);
                    let input = inputs[piece.input];
                    to.copy_from_slice(&input[t * (input.len() / n) + piece.start..][..piece.len]);
                    rest = tail;
                }
            }
        });
        Ok(())
    }
}
