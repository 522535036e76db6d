//! Products of each head with rows of its own, of one matrix: how latent attention folds its
//! projections of keys and values into queries and results.

use std::cell::RefCell;

use super::decode;
use crate::{
    Cpu, KernelError, Matrix, check,
    disjoint::Disjoint,
    lanes::{Kernel, Lanes},
};

/// Which rows of a matrix `[heads * stride, cols]` belong to a head, and how they are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadRows {
    /// Number of heads.
    pub heads: usize,
    /// Rows from one head's first to the next one's.
    pub stride: usize,
    /// Rows of a head before those used.
    pub first: usize,
    /// Rows used.
    pub rows: usize,
    /// Whether the rows' transpose is multiplied with.
    pub transposed: bool,
}

impl HeadRows {
    /// Elements of a head before and after the product.
    pub(crate) fn widths(&self, cols: usize) -> (usize, usize) {
        match self.transposed {
            false => (cols, self.rows),
            true => (self.rows, cols),
        }
    }
}

/// Checks sizes; gives the number of tokens.
pub(crate) fn check(
    weights: &Matrix<'_>,
    x: &[f32],
    shape: HeadRows,
    out: &[f32],
) -> Result<usize, KernelError> {
    const OP: &str = "head_matmul";
    check::positive(OP, "heads", shape.heads)?;
    let all = check::product(&[shape.heads, shape.stride]);
    check::size(OP, "rows of the matrix", all, weights.rows())?;
    let end = shape.first.saturating_add(shape.rows);
    check::index(OP, "end of a head's rows", end, shape.stride + 1)?;
    let (before, after) = shape.widths(weights.cols());
    let n = check::rows(OP, "x", x.len(), check::product(&[shape.heads, before]))?;
    check::size(
        OP,
        "out",
        check::product(&[n, shape.heads, after]),
        out.len(),
    )?;
    Ok(n)
}

impl Cpu {
    /// Multiplies each head of `x` with its rows of `weights`: `[n, heads, cols]` to
    /// `[n, heads, rows]`, every element a dot product in 16 lanes; or with their transpose,
    /// `[n, heads, rows]` to `[n, heads, cols]`, every element a sum by fused multiply-adds over
    /// the rows in order. Activations stay f32 whatever the weights' codec.
    ///
    /// # Errors
    /// If sizes do not fit.
    pub fn head_matmul(
        &self,
        weights: &Matrix<'_>,
        x: &[f32],
        shape: HeadRows,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        let n = check(weights, x, shape, out)?;
        let out = Disjoint::new(out);
        self.split(shape.heads, 1, &|first, end| {
            ROW.with_borrow_mut(|row| {
                row.resize(weights.cols(), 0.0);
                for head in first..end {
                    let product = Head {
                        weights,
                        x,
                        shape,
                        head,
                        n,
                        row,
                        out: &out,
                    };
                    self.backend.run(product);
                }
            });
        });
        Ok(())
    }
}

thread_local! {
    /// A decoded row.
    static ROW: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// One head of all tokens.
struct Head<'a> {
    weights: &'a Matrix<'a>,
    x: &'a [f32],
    shape: HeadRows,
    head: usize,
    n: usize,
    row: &'a mut [f32],
    out: &'a Disjoint<'a, f32>,
}

impl Kernel for Head<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let HeadRows {
            heads,
            stride,
            first,
            rows,
            transposed,
        } = self.shape;
        let (before, after) = self.shape.widths(self.weights.cols());
        for i in 0..rows {
            decode::row(l, self.weights, self.head * stride + first + i, self.row);
            for t in 0..self.n {
                let place = t * heads + self.head;
                let x = &self.x[place * before..][..before];
                // SAFETY: this head's elements belong to the running task, which holds no other
                // part while this one lives.
                let out = unsafe { self.out.part(place * after, after) };
                if transposed {
                    add_row(l, self.row, x[i], i == 0, out);
                } else {
                    out[i] = l.dot16(self.row, x);
                }
            }
        }
        if rows == 0 && transposed {
            for t in 0..self.n {
                // SAFETY: as above.
                unsafe { self.out.part((t * heads + self.head) * after, after) }.fill(0.0);
            }
        }
    }
}

/// `out += x * row`, or `out = x * row` at the beginning.
#[inline(always)]
fn add_row<L: Lanes>(l: L, row: &[f32], x: f32, begin: bool, out: &mut [f32]) {
    let x = l.splat(x);
    let mut i = 0;
    while i < out.len() {
        let sum = match begin {
            true => l.zero(),
            false => l.load_at(out, i),
        };
        l.store_at(l.fma(x, l.load_at(row, i), sum), out, i);
        i += 16;
    }
}
