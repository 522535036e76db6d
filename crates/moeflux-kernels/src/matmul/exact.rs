//! Products of integer-coded weights with f32 activations: 16 rows in the lanes, four partial
//! sums a row (element k goes to sum k mod 4), added as (0 + 2) + (1 + 3).

use std::ops::Range;

use super::{Product, panel::Scratch, quads::Panel, scales::Maps};
use crate::coding::{Coded, TILE, UNIT};
use crate::lanes::{Backend, Kernel, Lanes};

/// Some rows of a product; the first is a multiple of 16.
pub(super) fn rows(
    backend: Backend,
    product: &Product<'_>,
    coded: &Coded<'_>,
    rows: Range<usize>,
    scratch: &mut Scratch,
) {
    let (all, cols) = (product.weights.rows(), product.weights.cols());
    let Scratch { tail, panel } = scratch;
    let (rounding, end) = (coded.coding.rounding(), rows.end);
    for row in rows.step_by(TILE) {
        let tile = tail.whole(coded, all, cols, row);
        panel.fill(backend, &tile, cols / UNIT);
        backend.run(Tokens {
            product,
            row,
            count: TILE.min(end - row),
            units: cols / UNIT,
            half_group: rounding.group / (UNIT / 2),
            zero: rounding.zero,
            quads: panel.quads(),
            maps: panel.maps(),
        });
    }
}

/// A tile's trip past all tokens.
struct Tokens<'a, 'b> {
    product: &'a Product<'b>,
    row: usize,
    /// Rows that are results.
    count: usize,
    units: usize,
    /// Halves of units in a group.
    half_group: usize,
    zero: i32,
    quads: Panel<'a>,
    maps: Maps<'a>,
}

impl Kernel for Tokens<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let (mut t, m) = (0, self.product.m);
        while L::ROOMY && t + 4 <= m {
            self.rows::<L, 4>(l, t);
            t += 4;
        }
        while t < m {
            self.rows::<L, 1>(l, t);
            t += 1;
        }
    }
}

impl Tokens<'_, '_> {
    /// The tile times the tokens t .. t + T.
    #[inline(always)]
    fn rows<L: Lanes, const T: usize>(&self, l: L, t: usize) {
        let cols = self.units * UNIT;
        let mut x: [&[[[f32; 4]; 8]]; T] = [&[]; T];
        for i in 0..T {
            let row = &self.product.x[self.product.token(t + i) * cols..][..cols];
            x[i] = row.as_chunks().0.as_chunks().0;
        }
        let mut sums = [[l.zero(); 4]; T];
        for half in 0..self.units * 2 {
            let (unit, high) = (half / 2, half % 2 == 1);
            let (quads, at) = if high {
                (self.quads.half::<L, true>(l, unit), 4)
            } else {
                (self.quads.half::<L, false>(l, unit), 0)
            };
            let g = half / self.half_group;
            let scale = l.load(&self.maps.scales[g]);
            let bias = l.load(&self.maps.biases[g]);
            for q in 0..4 {
                let weights = self.weights(l, quads[q], scale, bias);
                for i in 0..T {
                    let x = &x[i][unit][at + q];
                    for j in 0..4 {
                        sums[i][j] = l.fma(weights[j], l.splat(x[j]), sums[i][j]);
                    }
                }
            }
        }
        for i in 0..T {
            let [a, b, c, d] = sums[i];
            let mut out = [0.0; TILE];
            l.store(l.add(l.add(a, c), l.add(b, d)), &mut out);
            // SAFETY: these rows belong to the running task.
            unsafe { self.product.write(t + i, self.row, &out[..self.count]) };
        }
    }

    /// The four elements of a quad, decoded.
    #[inline(always)]
    fn weights<L: Lanes>(&self, l: L, quad: L::I, scale: L::F, bias: L::F) -> [L::F; 4] {
        let (mask, zero) = (l.splat_i(255), l.splat_i(self.zero));
        let integers = [
            l.and_i(quad, mask),
            l.and_i(l.shift_right::<8>(quad), mask),
            l.and_i(l.shift_right::<16>(quad), mask),
            l.shift_right::<24>(quad),
        ];
        let mut weights = [l.zero(); 4];
        for (weight, integer) in weights.iter_mut().zip(&integers) {
            *weight = l.fma(l.to_float(l.sub_i(*integer, zero)), scale, bias);
        }
        weights
    }
}
