//! Products of integer-coded weights with activations rounded to 8 bits.
//!
//! Sixteen rows stand in the sixteen lanes; a quad of each meets the same quad of a token in one
//! byte dot product. Few tokens take the quads straight from the planes, in registers; many run
//! through a panel into which a segment's quads are brought first.

use std::ops::Range;

use super::{
    Product,
    panel::{PanelMemory, Scratch},
    quads::Quads,
    scales::{Scales, with_coding},
};
use crate::coding::{Coded, CodedTile, Coding, TILE, UNIT};
use crate::lanes::{Backend, Kernel, Lanes};
use crate::{Quantized, SEGMENT};

/// Units of a segment.
const SEGMENT_UNITS: usize = SEGMENT / UNIT;
/// Tokens from which on a panel pays, where quads are cheap to take out of the planes.
const PANEL_FROM: usize = 12;

/// Some rows of a product; the first is a multiple of 16.
pub(super) fn rows(
    backend: Backend,
    product: &Product<'_>,
    coded: &Coded<'_>,
    x: &Quantized,
    rows: Range<usize>,
    scratch: &mut Scratch,
) {
    let (all, cols) = (product.weights.rows(), product.weights.cols());
    let Scratch {
        tail,
        panel,
        totals,
    } = scratch;
    let end = rows.end;
    for row in rows.step_by(TILE) {
        let tile = tail.whole(coded, all, cols, row);
        let run = Run {
            product,
            x,
            row,
            count: TILE.min(end - row),
            units: cols / UNIT,
        };
        let m = product.m;
        if m == 1 || (tile.coding.bits() == 4 && m < PANEL_FROM) {
            with_coding!(&tile, |quads, scales| {
                let run = &run;
                backend.run(Direct { run, quads, scales });
            });
        } else {
            by_panel(backend, &run, &tile, panel, totals);
        }
    }
}

/// Segment after segment, each brought into the panel and met by all tokens.
fn by_panel(
    backend: Backend,
    run: &Run<'_, '_>,
    tile: &CodedTile<'_>,
    panel: &mut PanelMemory,
    totals: &mut Vec<[f32; TILE]>,
) {
    totals.resize(run.product.m, [0.0; TILE]);
    for first in (0..run.units).step_by(SEGMENT_UNITS) {
        let end = (first + SEGMENT_UNITS).min(run.units);
        panel.fill(backend, tile, first, end);
        macro_rules! pass {
            ($wide:literal, $split:literal, $bias:literal, $zero:literal) => {
                backend.run(PanelTokens {
                    run,
                    quads: panel.quads::<$wide>(),
                    scales: panel.maps::<$split, $bias, $zero>(),
                    first,
                    end,
                    totals: &mut *totals,
                })
            };
        }
        match tile.coding {
            Coding::Affine { bits: 8, .. } => pass!(true, 1, true, false),
            Coding::Affine { .. } | Coding::Q4K | Coding::Q5K => pass!(false, 1, true, false),
            Coding::Q4_0 => pass!(false, 1, false, true),
            Coding::Q8_0 => pass!(true, 1, false, true),
            Coding::Q6K => pass!(false, 2, false, true),
        }
    }
    for (t, total) in totals.iter().enumerate() {
        // SAFETY: these rows belong to the running task.
        unsafe { run.product.write(t, run.row, &total[..run.count]) };
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

/// All tokens, quads straight from the planes.
struct Direct<'a, 'b, Q, S> {
    run: &'a Run<'a, 'b>,
    quads: Q,
    scales: S,
}

impl<Q: Quads, S: Scales> Kernel for Direct<'_, '_, Q, S> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let (mut t, m) = (0, self.run.product.m);
        while L::ROOMY && Q::CHEAP && t + 4 <= m {
            self.rows::<L, 4, 1>(l, t);
            t += 4;
        }
        while t < m {
            self.rows::<L, 1, 2>(l, t);
            t += 1;
        }
    }
}

impl<Q: Quads, S: Scales> Direct<'_, '_, Q, S> {
    /// Whole rows times the tokens t .. t + T, with `U` integer accumulators each.
    #[inline(always)]
    fn rows<L: Lanes, const T: usize, const U: usize>(&self, l: L, t: usize) {
        let run = self.run;
        let segment = Segment {
            quads: self.quads,
            scales: self.scales,
            tokens: run.tokens::<T>(t),
            ahead: 0,
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

/// All tokens through the panel of the units first .. end.
struct PanelTokens<'a, 'b, Q, S> {
    run: &'a Run<'a, 'b>,
    quads: Q,
    scales: S,
    first: usize,
    end: usize,
    totals: &'a mut [[f32; TILE]],
}

impl<Q: Quads, S: Scales> Kernel for PanelTokens<'_, '_, Q, S> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(mut self, l: L) {
        let (mut t, m) = (0, self.run.product.m);
        while L::ROOMY && t + 8 <= m {
            self.block::<L, 8>(l, t);
            t += 8;
        }
        while t + 2 <= m {
            self.block::<L, 2>(l, t);
            t += 2;
        }
        if t < m {
            self.block::<L, 1>(l, t);
        }
    }
}

impl<Q: Quads, S: Scales> PanelTokens<'_, '_, Q, S> {
    #[inline(always)]
    fn block<L: Lanes, const T: usize>(&mut self, l: L, t: usize) {
        let segment = Segment {
            quads: self.quads,
            scales: self.scales,
            tokens: self.run.tokens::<T>(t),
            ahead: self.first,
        };
        let sums = segment.sums::<L, 1>(l, 0, self.end - self.first);
        for i in 0..T {
            let total = &mut self.totals[t + i];
            let sum = if self.first == 0 {
                sums[i]
            } else {
                l.add(l.load(total), sums[i])
            };
            l.store(sum, total);
        }
    }
}

/// Quads, scales, and `T` tokens whose own units begin `ahead` later.
struct Segment<'a, Q, S, const T: usize> {
    quads: Q,
    scales: S,
    tokens: [Token<'a>; T],
    ahead: usize,
}

impl<Q: Quads, S: Scales, const T: usize> Segment<'_, Q, S, T> {
    /// The sums of the units first .. end, with `U` integer accumulators a token.
    #[inline(always)]
    fn sums<L: Lanes, const U: usize>(&self, l: L, first: usize, end: usize) -> [L::F; T] {
        let mut acc = [l.zero(); T];
        let units = self.scales.units();
        // Counted along: a division would cost more than the group.
        let mut g = first * S::SPLIT / units;
        let ahead = self.ahead * S::SPLIT / units;
        let mut unit = first;
        while unit < end {
            if S::SPLIT == 2 {
                self.quads.prefetch(l, unit);
                for part in 0..2 {
                    let mut dots = self.start::<L, U>(l, g + ahead);
                    self.dot_half::<L, U>(l, &mut dots, unit, part == 1);
                    self.add_group(l, &mut acc, &dots, g, g + ahead);
                    g += 1;
                }
                unit += 1;
                continue;
            }
            let mut dots = self.start::<L, U>(l, g + ahead);
            for _ in 0..units {
                self.quads.prefetch(l, unit);
                self.dot_half::<L, U>(l, &mut dots, unit, false);
                self.dot_half::<L, U>(l, &mut dots, unit, true);
                unit += 1;
            }
            self.add_group(l, &mut acc, &dots, g, g + ahead);
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
            x[t] = &self.tokens[t].quads[unit + self.ahead];
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

    /// The canonical step of a group, which is group `token_g` of the tokens.
    #[inline(always)]
    fn add_group<L: Lanes, const U: usize>(
        &self,
        l: L,
        acc: &mut [L::F; T],
        dots: &[[L::I; U]; T],
        g: usize,
        token_g: usize,
    ) {
        let (scale, bias) = (self.scales.scale(l, g), self.scales.bias(l, g));
        for t in 0..T {
            let mut dot = dots[t][0];
            for other in &dots[t][1..] {
                dot = l.add_i(dot, *other);
            }
            let factor = l.mul(scale, l.splat(self.tokens[t].scales[token_g]));
            acc[t] = l.fma(factor, l.to_float(dot), acc[t]);
            if S::BIAS {
                acc[t] = l.fma(bias, l.splat(self.tokens[t].sums[token_g]), acc[t]);
            }
        }
    }
}
