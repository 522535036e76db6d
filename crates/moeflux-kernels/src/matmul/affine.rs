//! Products of affine integer weights with quantized activations.
//!
//! Sixteen rows stand in the sixteen lanes. A segment of their weights is brought into a panel of
//! quads (four consecutive elements of each of the 16 rows, one byte an element), which every
//! token then runs through: one byte dot product instruction a quad, its activations broadcast.
//! A single token with 4- or 8-bit weights takes the quads straight from registers.

use super::{
    Product, TILE,
    maps::{Map, Weights, load_maps},
    panel::{NIBBLES, Panel, Source, fill},
    unpack::unpack,
};
use crate::{MatrixData, Quantized, SEGMENT, lanes::Lanes};

/// Weight bytes to prefetch ahead, rounded up to whole tiles.
const AHEAD: usize = 32 << 10;

/// Working memory of a thread.
#[derive(Default)]
pub(super) struct Scratch {
    /// Scales and biases of a tile's rows by group, f32.
    maps: Vec<Map>,
    panel: Panel,
    /// A segment's bytes of 16 rows, where they must be copied.
    bytes: Vec<u8>,
    /// Results of a tile by token.
    totals: Vec<[f32; TILE]>,
}

/// Rows first .. end of a product; `first` is a multiple of 16. `WIDE`: 8-bit weights.
#[inline(always)]
pub(super) fn rows<L: Lanes, const WIDE: bool>(
    l: L,
    product: &Product<'_>,
    x: &Quantized,
    first: usize,
    end: usize,
    scratch: &mut Scratch,
) {
    let MatrixData::Affine {
        bits,
        group,
        weights,
        scales,
        biases,
    } = product.weights.data()
    else {
        return;
    };
    let cols = product.weights.cols();
    let row_bytes = cols / 8 * bits as usize;
    let weights = Weights {
        bits,
        group,
        groups: cols / group,
        row_bytes,
        bytes: weights,
        scales,
        biases,
    };
    scratch.totals.resize(product.m, [0.0; TILE]);
    scratch
        .maps
        .resize(weights.groups.next_multiple_of(8), Map::default());
    scratch.bytes.resize(TILE * SEGMENT, 0);
    for row in (first..end).step_by(TILE) {
        let count = TILE.min(end - row);
        load_maps(l, &weights, row, count, &mut scratch.maps);
        for group in (0..weights.groups).step_by(SEGMENT / weights.group) {
            segment::<L, WIDE>(l, product, &weights, x, row, count, group, scratch);
        }
        for t in 0..product.m {
            // SAFETY: these rows belong to the running task.
            unsafe { product.write(t, row, &scratch.totals[t][..count]) };
        }
    }
}

/// Adds the segment that begins at group `group` to the totals of all tokens.
#[inline(always)]
fn segment<L: Lanes, const WIDE: bool>(
    l: L,
    product: &Product<'_>,
    weights: &Weights<'_>,
    x: &Quantized,
    row: usize,
    count: usize,
    group: usize,
    scratch: &mut Scratch,
) {
    let Scratch {
        maps,
        panel,
        bytes,
        totals,
    } = scratch;
    let groups = (weights.groups - group).min(SEGMENT / weights.group);
    let width = groups * weights.group / 8 * weights.bits as usize;
    let start = row * weights.row_bytes + group * weights.group / 8 * weights.bits as usize;
    // The same share of a later tile: tiles follow one another.
    let ahead = start
        + (start - row * weights.row_bytes) * (TILE - 1)
        + AHEAD.next_multiple_of(TILE * weights.row_bytes);
    let (mut source, mut stride) = (&weights.bytes[start..], weights.row_bytes);
    if count < TILE {
        bytes.fill(0);
        for r in 0..count {
            bytes[r * SEGMENT..][..width].copy_from_slice(&source[r * stride..][..width]);
        }
        (source, stride) = (bytes, SEGMENT);
    }
    let mut source = Source {
        rows: source,
        stride,
        all: weights.bytes,
        ahead,
    };
    let segment = Segment {
        x,
        group,
        maps: &maps[group..][..groups],
    };
    if product.m == 1 && matches!(weights.bits, 4 | 8) {
        let token = segment.token(weights.bits, product.token(0));
        return fused::<L, WIDE>(l, weights, &token, &source, &mut totals[0]);
    }
    if matches!(weights.bits, 4 | 8) {
        fill::<L, WIDE>(l, &source, width, panel);
    } else {
        let mut integers = [0; TILE * SEGMENT];
        for r in 0..count {
            let out = &mut integers[r * SEGMENT..][..groups * weights.group];
            unpack(
                weights.bits,
                &source.rows[r * source.stride..][..width],
                out,
            );
        }
        (source.rows, source.stride) = (&integers, SEGMENT);
        fill::<L, true>(l, &source, groups * weights.group, panel);
    }
    segment.all_tokens::<L, WIDE>(l, product, weights, panel, totals);
}

/// A segment of the inner dimension.
struct Segment<'a> {
    x: &'a Quantized,
    /// Its first group.
    group: usize,
    /// Scales and biases of its groups.
    maps: &'a [Map],
}

/// The activations of one token in a segment.
#[derive(Clone, Copy)]
struct Token<'a> {
    first: bool,
    maps: &'a [Map],
    quads: &'a [[i8; 4]],
    scales: &'a [f32],
    sums: &'a [f32],
}

impl Segment<'_> {
    /// The activations of a token, in the order of the weights' quads.
    #[inline(always)]
    fn token(&self, bits: u32, token: usize) -> Token<'_> {
        let x = self.x;
        let at = token * (x.cols / x.group) + self.group;
        let values = if bits == 4 { &x.paired } else { &x.values };
        Token {
            first: self.group == 0,
            maps: self.maps,
            quads: values[at * x.group..][..self.maps.len() * x.group]
                .as_chunks()
                .0,
            scales: &x.scales[at..][..self.maps.len()],
            sums: &x.sums[at..][..self.maps.len()],
        }
    }

    /// Runs all tokens through the panel.
    #[inline(always)]
    fn all_tokens<L: Lanes, const WIDE: bool>(
        &self,
        l: L,
        product: &Product<'_>,
        weights: &Weights<'_>,
        panel: &Panel,
        totals: &mut [[f32; TILE]],
    ) {
        let (bits, token) = (weights.bits, |t| product.token(t));
        let mut t = 0;
        while L::ROOMY && t + 8 <= product.m {
            let mut tokens = [self.token(bits, token(t)); 8];
            for i in 1..8 {
                tokens[i] = self.token(bits, token(t + i));
            }
            panel_dots::<L, WIDE, 8, 1>(l, weights.group, &tokens, panel, &mut totals[t..]);
            t += 8;
        }
        while t + 2 <= product.m {
            let tokens = [self.token(bits, token(t)), self.token(bits, token(t + 1))];
            panel_dots::<L, WIDE, 2, 2>(l, weights.group, &tokens, panel, &mut totals[t..]);
            t += 2;
        }
        if t < product.m {
            let tokens = [self.token(bits, token(t))];
            panel_dots::<L, WIDE, 1, 4>(l, weights.group, &tokens, panel, &mut totals[t..]);
        }
    }
}

/// `T` tokens through the panel, each with `U` integer accumulators (exact in any order).
#[inline(always)]
fn panel_dots<L: Lanes, const WIDE: bool, const T: usize, const U: usize>(
    l: L,
    group: usize,
    tokens: &[Token<'_>; T],
    panel: &Panel,
    totals: &mut [[f32; TILE]],
) {
    let quads = group / 4;
    let mut acc = [l.zero(); T];
    for (g, map) in tokens[0].maps.iter().enumerate() {
        let panel = &panel.0[g * quads..][..quads];
        let mut x: [&[[i8; 4]]; T] = [&[]; T];
        for t in 0..T {
            x[t] = &tokens[t].quads[g * quads..][..quads];
        }
        let mut dots = [[l.splat_i(0); U]; T];
        for k in (0..quads).step_by(U) {
            for u in 0..U {
                let w = l.load_i(&panel[k + u]);
                for t in 0..T {
                    dots[t][u] = l.dot::<WIDE>(dots[t][u], w, broadcast(l, x[t][k + u]));
                }
            }
        }
        for t in 0..T {
            acc[t] = add_group(l, acc[t], total(l, dots[t]), map, &tokens[t], g);
        }
    }
    for t in 0..T {
        add_segment(l, acc[t], tokens[t].first, &mut totals[t]);
    }
}

/// One token, the quads taken from registers; 4-bit weights, or 8-bit if `WIDE`.
#[inline(always)]
fn fused<L: Lanes, const WIDE: bool>(
    l: L,
    weights: &Weights<'_>,
    token: &Token<'_>,
    source: &Source<'_>,
    totals: &mut [f32; TILE],
) {
    let nibbles = l.splat_i(NIBBLES);
    let quads = weights.group / 4;
    let group_bytes = weights.group / 8 * weights.bits as usize;
    let mut acc = l.zero();
    for (g, map) in token.maps.iter().enumerate() {
        let x = &token.quads[g * quads..][..quads];
        let mut dots = [l.splat_i(0); 4];
        for chunk in 0..group_bytes / 16 {
            let at = g * group_bytes + chunk * 16;
            let w = source.quads(l, at);
            if WIDE {
                let x = &x[chunk * 4..][..4];
                for q in 0..4 {
                    dots[q] = l.dot::<WIDE>(dots[q], w[q], broadcast(l, x[q]));
                }
            } else {
                let x = &x[chunk * 8..][..8];
                for q in 0..4 {
                    let w_even = l.and_i(w[q], nibbles);
                    let w_odd = l.and_i(l.shift_right::<4>(w[q]), nibbles);
                    let pair = q % 2 * 2;
                    dots[pair] = l.dot::<WIDE>(dots[pair], w_even, broadcast(l, x[2 * q]));
                    dots[pair + 1] =
                        l.dot::<WIDE>(dots[pair + 1], w_odd, broadcast(l, x[2 * q + 1]));
                }
            }
        }
        acc = add_group(l, acc, total(l, dots), map, token, g);
    }
    add_segment(l, acc, token.first, totals);
}

#[inline(always)]
fn broadcast<L: Lanes>(l: L, quad: [i8; 4]) -> L::I {
    let [a, b, c, d] = quad;
    l.splat_i(i32::from_le_bytes([a as u8, b as u8, c as u8, d as u8]))
}

#[inline(always)]
fn total<L: Lanes, const U: usize>(l: L, dots: [L::I; U]) -> L::I {
    let mut sum = dots[0];
    for dot in &dots[1..] {
        sum = l.add_i(sum, *dot);
    }
    sum
}

/// The canonical step of a group.
#[inline(always)]
fn add_group<L: Lanes>(l: L, acc: L::F, dot: L::I, map: &Map, token: &Token<'_>, g: usize) -> L::F {
    let scale = l.mul(l.load(&map.scales), l.splat(token.scales[g]));
    let acc = l.fma(scale, l.to_float(dot), acc);
    l.fma(l.load(&map.biases), l.splat(token.sums[g]), acc)
}

/// The canonical step of a segment.
#[inline(always)]
fn add_segment<L: Lanes>(l: L, acc: L::F, first: bool, totals: &mut [f32; TILE]) {
    let acc = if first {
        acc
    } else {
        l.add(l.load(totals), acc)
    };
    l.store(acc, totals);
}
