//! Scales and biases of affine weights, 16 rows at a time.

use super::TILE;
use crate::lanes::Lanes;

/// Scales and biases of one group of 16 rows.
#[derive(Clone, Copy, Default)]
#[repr(align(64))]
pub(super) struct Map {
    pub(super) scales: [f32; TILE],
    pub(super) biases: [f32; TILE],
}

/// The affine weights of a product.
#[derive(Clone, Copy)]
pub(super) struct Weights<'a> {
    pub(super) bits: u32,
    pub(super) group: usize,
    /// Groups of a row.
    pub(super) groups: usize,
    pub(super) row_bytes: usize,
    pub(super) bytes: &'a [u8],
    pub(super) scales: &'a [u16],
    pub(super) biases: &'a [u16],
}

/// Brings the scales and biases of `count` rows into `maps`.
#[inline(always)]
pub(super) fn load_maps<L: Lanes>(
    l: L,
    weights: &Weights<'_>,
    row: usize,
    count: usize,
    maps: &mut [Map],
) {
    for (chunk, maps) in maps.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let scales = map_quads(l, weights, weights.scales, row, count, chunk * 8);
        let biases = map_quads(l, weights, weights.biases, row, count, chunk * 8);
        for q in 0..4 {
            let (even, odd) = split_bf16(l, scales[q]);
            l.store(even, &mut maps[2 * q].scales);
            l.store(odd, &mut maps[2 * q + 1].scales);
            let (even, odd) = split_bf16(l, biases[q]);
            l.store(even, &mut maps[2 * q].biases);
            l.store(odd, &mut maps[2 * q + 1].biases);
        }
    }
}

/// Eight groups' bfloat16 of 16 rows; missing rows and groups are zeros.
#[inline(always)]
fn map_quads<L: Lanes>(
    l: L,
    weights: &Weights<'_>,
    values: &[u16],
    row: usize,
    count: usize,
    group: usize,
) -> [L::I; 4] {
    let values = &values[row * weights.groups + group..];
    let groups = weights.groups - group;
    if count == TILE && groups >= 8 {
        return l.load_quads(as_bytes(values), weights.groups * 2);
    }
    let mut copy = [0; TILE * 8];
    for r in 0..count {
        let width = groups.min(8);
        copy[r * 8..][..width].copy_from_slice(&values[r * weights.groups..][..width]);
    }
    l.load_quads(as_bytes(&copy), 16)
}

/// The bytes of little-endian words.
#[inline(always)]
fn as_bytes(words: &[u16]) -> &[u8] {
    // SAFETY: the same memory, which may be read as bytes.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), words.len() * 2) }
}

/// The two bfloat16 of each lane as f32.
#[inline(always)]
fn split_bf16<L: Lanes>(l: L, pair: L::I) -> (L::F, L::F) {
    let odd = l.and_i(pair, l.splat_i(0xffff_0000_u32 as i32));
    (
        l.bits_to_float(l.shift_left::<16>(pair)),
        l.bits_to_float(odd),
    )
}
