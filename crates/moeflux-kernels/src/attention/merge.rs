//! Merging the results of chunks, and what follows the last one.

use super::chunk::PARTIAL_EXTRA;
use crate::{
    lanes::{Kernel, Lanes},
    math as scalar_math,
};

/// Merges the results of a chunk into those of the chunks before.
pub(super) struct Merge<'a> {
    /// `[rows, head_dim + PARTIAL_EXTRA]`.
    pub total: &'a mut [f32],
    /// Shaped as `total`.
    pub partial: &'a [f32],
    pub head_dim: usize,
}

impl Kernel for Merge<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let (dim, width) = (self.head_dim, self.head_dim + PARTIAL_EXTRA);
        let rows = self.total.chunks_exact_mut(width);
        for (total, partial) in rows.zip(self.partial.chunks_exact(width)) {
            let (m, chunk_m) = (total[dim], partial[dim]);
            if m == f32::NEG_INFINITY {
                total.copy_from_slice(partial);
                continue;
            }
            let new_m = if chunk_m > m { chunk_m } else { m };
            let old = scalar_math::exp(m - new_m);
            let new = scalar_math::exp(chunk_m - new_m);
            total[dim] = new_m;
            total[dim + 1] = total[dim + 1].mul_add(old, partial[dim + 1] * new);
            let mut i = 0;
            while i < dim {
                let scaled = l.mul(l.load_at(&partial[..dim], i), l.splat(new));
                let sum = l.fma(l.load_at(&total[..dim], i), l.splat(old), scaled);
                l.store_at(sum, &mut total[..dim], i);
                i += 16;
            }
        }
    }
}

/// Merges the sinks, if there are any, and divides by the sums of weights.
pub(super) struct Finish<'a> {
    /// `[rows, head_dim + PARTIAL_EXTRA]`.
    pub total: &'a mut [f32],
    pub head_dim: usize,
    /// `[rows]`.
    pub sinks: Option<&'a [f32]>,
    /// `[rows, head_dim]`.
    pub out: &'a mut [f32],
}

impl Kernel for Finish<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let dim = self.head_dim;
        let rows = self.total.chunks_exact_mut(dim + PARTIAL_EXTRA);
        for (row, (total, out)) in rows.zip(self.out.chunks_exact_mut(dim)).enumerate() {
            if let Some(sinks) = self.sinks {
                merge_sink(l, total, dim, sinks[row]);
            }
            let sum = l.splat(total[dim + 1]);
            let mut i = 0;
            while i < dim {
                l.store_at(l.div(l.load_at(&total[..dim], i), sum), out, i);
                i += 16;
            }
        }
    }
}

/// Lets a score without a value take its share of a row.
#[inline(always)]
fn merge_sink<L: Lanes>(l: L, total: &mut [f32], dim: usize, sink: f32) {
    let m = total[dim];
    let new_m = if sink > m { sink } else { m };
    let old = scalar_math::exp(m - new_m);
    total[dim + 1] = total[dim + 1].mul_add(old, scalar_math::exp(sink - new_m));
    let mut i = 0;
    while i < dim {
        let scaled = l.mul(l.load_at(&total[..dim], i), l.splat(old));
        l.store_at(scaled, &mut total[..dim], i);
        i += 16;
    }
}
