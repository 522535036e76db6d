//! Products of integer-coded weights with activations rounded to 8 bits.
//!
//! Sixteen rows stand in the sixteen lanes; a quad of each meets the same quad of a token in one
//! byte dot product. Quads are taken out of the planes in registers, once for up to eight tokens.

use std::ops::Range;

use super::{
    Product,
    panel::Tail,
    quads::Quads,
    scales::{Scales, with_coding},
};
use crate::coding::{Coded, TILE, UNIT};
use crate::lanes::{Backend, Kernel, Lanes};
use crate::{Quantized, SEGMENT};

/// Units of a segment.
const SEGMENT_UNITS: usize = SEGMENT / UNIT;
/// Tokens that go past all tiles of a task together: their activations stay in the second-level
/// cache.
const TOGETHER: usize = 128;

/// Some rows of a product; the first is a multiple of 16.
pub(super) fn rows(
    backend: Backend,
    product: &Product<'_>,
    coded: &Coded<'_>,
    x: &Quantized,
    rows: Range<usize>,
    tail: &mut Tail,
) {
    let (all, cols) = (product.weights.rows(), product.weights.cols());
    for first in (0..product.m).step_by(TOGETHER) {
        for row in rows.clone().step_by(TILE) {
            let tile = tail.whole(coded, all, cols, row);
            let run = &Run {
                product,
                x,
                row,
                count: TILE.min(rows.end - row),
                units: cols / UNIT,
                tokens: first..product.m.min(first + TOGETHER),
            };
            with_coding!(&tile, |quads, scales| {
                backend.run(Tokens { run, quads, scales });
            });
        }
    }
}

/// A tile and its tokens.
struct Run<'a, 'b> {
    product: &'a Product<'b>,
    x: &'a Quantized,
    row: usize,
    /// Rows that are results.
    count: usize,
    units: usize,
    tokens: Range<usize>,
}

/// The activations of one token, all of its row.
#[derive(Clone, Copy)]
struct Token<'a> {
    /// By unit.
    quads: &'a [[[i8; 4]; 8]],
    /// By group.
    scales: &'a [f32],
    sums: &'a [f32],
    offsets: &'a [i32],
}

impl Run<'_, '_> {
    #[inline(always)]
    fn token(&self, t: usize) -> Token<'_> {
        let (x, token) = (self.x, self.product.token(t));
        let groups = x.cols / x.rounding.group;
        let values = &x.values[token * x.cols..][..x.cols];
        Token {
            quads: values.as_chunks().0.as_chunks().0,
            scales: &x.scales[token * groups..][..groups],
            sums: &x.sums[token * groups..][..groups],
            offsets: &x.offsets[token * groups..][..groups],
        }
    }

    #[inline(always)]
    fn tokens<const T: usize>(&self, t: usize) -> [Token<'_>; T] {
        let mut tokens = [self.token(t); T];
        for i in 1..T {
            tokens[i] = self.token(t + i);
        }
        tokens
    }
}

/// A tile times some tokens.
struct Tokens<'a, 'b, Q, S> {
    run: &'a Run<'a, 'b>,
    quads: Q,
    scales: S,
}

impl<Q: Quads, S: Scales> Kernel for Tokens<'_, '_, Q, S> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let Range { start: mut t, end } = self.run.tokens.clone();
        if L::ROOMY {
            while t + 8 <= end {
                self.rows::<L, 8, 1>(l, t);
                t += 8;
            }
            if Q::COMMON && t + 4 <= end {
                self.rows::<L, 4, 1>(l, t);
                t += 4;
            }
        }
        while (Q::COMMON || !L::ROOMY) && t + 2 <= end {
            self.rows::<L, 2, 1>(l, t);
            t += 2;
        }
        while t < end {
            self.rows::<L, 1, 2>(l, t);
            t += 1;
        }
    }
}

impl<Q: Quads, S: Scales> Tokens<'_, '_, Q, S> {
    /// Whole rows times the tokens t .. t + T, with `U` integer accumulators each.
    #[inline(always)]
    fn rows<L: Lanes, const T: usize, const U: usize>(&self, l: L, t: usize) {
        let run = self.run;
        let segment = Segment {
            quads: self.quads,
            scales: self.scales,
            tokens: run.tokens::<T>(t),
        };
        let mut totals = [l.zero(); T];
        for first in (0..run.units).step_by(SEGMENT_UNITS) {
            let end = (first + SEGMENT_UNITS).min(run.units);
            let sums = segment.sums::<L, U>(l, first, end);
            for i in 0..T {
                totals[i] = if first == 0 {
                    sums[i]
                } else {
                    l.add(totals[i], sums[i])
                };
            }
        }
        for i in 0..T {
            let mut out = [0.0; TILE];
            l.store(totals[i], &mut out);
            // SAFETY: these rows belong to the running task.
            unsafe { run.product.write(t + i, run.row, &out[..run.count]) };
        }
    }
}

/// A tile and `T` tokens.
struct Segment<'a, Q, S, const T: usize> {
    quads: Q,
    scales: S,
    tokens: [Token<'a>; T],
}

impl<Q: Quads, S: Scales, const T: usize> Segment<'_, Q, S, T> {
    /// The sums of the units first .. end, with `U` integer accumulators a token.
    #[inline(always)]
    fn sums<L: Lanes, const U: usize>(&self, l: L, first: usize, end: usize) -> [L::F; T] {
        let mut acc = [l.zero(); T];
        let units = self.scales.units();
        // Counted along: a division would cost more than the group.
        let mut g = first * S::SPLIT / units;
        let mut unit = first;
        while unit < end {
            if S::SPLIT == 2 {
                self.quads.prefetch(l, unit);
                for part in 0..2 {
                    let mut dots = self.start::<L, U>(l, g);
                    self.dot_half::<L, U>(l, &mut dots, unit, part == 1);
                    self.add_group(l, &mut acc, &dots, g);
                    g += 1;
                }
                unit += 1;
                continue;
            }
            let mut dots = self.start::<L, U>(l, g);
            for _ in 0..units {
                self.quads.prefetch(l, unit);
                self.dot_half::<L, U>(l, &mut dots, unit, false);
                self.dot_half::<L, U>(l, &mut dots, unit, true);
                unit += 1;
            }
            self.add_group(l, &mut acc, &dots, g);
            g += 1;
        }
        acc
    }

    /// Integer accumulators that begin with what the coding's zero takes off.
    #[inline(always)]
    fn start<L: Lanes, const U: usize>(&self, l: L, g: usize) -> [[L::I; U]; T] {
        let mut dots = [[l.splat_i(0); U]; T];
        if S::ZERO {
            for t in 0..T {
                dots[t][0] = l.splat_i(self.tokens[t].offsets[g]);
            }
        }
        dots
    }

    /// Adds the products of half a unit.
    #[inline(always)]
    fn dot_half<L: Lanes, const U: usize>(
        &self,
        l: L,
        dots: &mut [[L::I; U]; T],
        unit: usize,
        high: bool,
    ) {
        let (quads, at) = if high {
            (self.quads.half::<L, true>(l, unit), 4)
        } else {
            (self.quads.half::<L, false>(l, unit), 0)
        };
        let mut x = [&[[0; 4]; 8]; T];
        for t in 0..T {
            x[t] = &self.tokens[t].quads[unit];
        }
        for q in 0..4 {
            for t in 0..T {
                let [a, b, c, d] = x[t][at + q];
                let x = l.splat_i(i32::from_le_bytes([a as u8, b as u8, c as u8, d as u8]));
                let dot = &mut dots[t][q % U];
                *dot = if Q::WIDE {
                    l.dot::<true>(*dot, quads[q], x)
                } else {
                    l.dot::<false>(*dot, quads[q], x)
                };
            }
        }
    }

    /// The canonical step of a group.
    #[inline(always)]
    fn add_group<L: Lanes, const U: usize>(
        &self,
        l: L,
        acc: &mut [L::F; T],
        dots: &[[L::I; U]; T],
        g: usize,
    ) {
        let (scale, bias) = (self.scales.scale(l, g), self.scales.bias(l, g));
        for t in 0..T {
            let mut dot = dots[t][0];
            for other in &dots[t][1..] {
                dot = l.add_i(dot, *other);
            }
            let factor = l.mul(scale, l.splat(self.tokens[t].scales[g]));
            acc[t] = l.fma(factor, l.to_float(dot), acc[t]);
            if S::BIAS {
                acc[t] = l.fma(bias, l.splat(self.tokens[t].sums[g]), acc[t]);
            }
        }
    }
}
