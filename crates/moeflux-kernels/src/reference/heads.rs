//! Reference of products by head and of rows put together from pieces.

use super::{decode_row, dot16};
use crate::{HeadRows, KernelError, Matrix, Piece, matmul::check_heads, rearrange as pieces_check};

/// See [`Cpu::head_matmul`](crate::Cpu::head_matmul).
///
/// # Errors
/// As there.
pub fn head_matmul(
    weights: &Matrix<'_>,
    x: &[f32],
    shape: HeadRows,
    out: &mut [f32],
) -> Result<(), KernelError> {
    let n = check_heads(weights, x, shape, out)?;
    let (before, after) = shape.widths(weights.cols());
    let mut row = vec![0.0; weights.cols()];
    out.fill(0.0);
    for head in 0..shape.heads {
        for i in 0..shape.rows {
            decode_row(weights, head * shape.stride + shape.first + i, &mut row)?;
            for t in 0..n {
                let place = t * shape.heads + head;
                let x = &x[place * before..][..before];
                let out = &mut out[place * after..][..after];
                if !shape.transposed {
                    out[i] = dot16(&row, x);
                    continue;
                }
                for j in 0..after {
                    out[j] = x[i].mul_add(row[j], out[j]);
                }
            }
        }
    }
    Ok(())
}

/// See [`Cpu::rearrange`](crate::Cpu::rearrange).
///
/// # Errors
/// As there.
pub fn rearrange(inputs: &[&[f32]], pieces: &[Piece], out: &mut [f32]) -> Result<(), KernelError> {
    let (n, width) = pieces_check::check(inputs, pieces, out)?;
    for t in 0..n {
        let mut at = t * width;
        for piece in pieces {
            let row = inputs[piece.input].len() / n;
            for i in 0..piece.len {
                out[at] = inputs[piece.input][t * row + piece.start + i];
                at += 1;
            }
        }
    }
    Ok(())
}
