//! Floats of 8 bits (E4M3) with a scale to each square of elements.

use crate::coding::half_power;
use crate::lanes::Lanes;

/// Rows and columns that share a scale.
pub const F8_BLOCK: usize = 128;

/// 2^120: an E4M3 number whose bits stand where those of a binary32 do is this many times too
/// small.
const LIFT: f32 = f32::from_bits((120 + 127) << 23);

/// Scales of E4M3 weights.
#[derive(Debug, Clone, Copy)]
pub enum F8Scales<'a> {
    /// IEEE binary32.
    F32(&'a [f32]),
    /// bfloat16 as bits.
    Bf16(&'a [u16]),
    /// E8M0: exponents of powers of two, 127 above; 255 stands for infinity.
    E8M0(&'a [u8]),
}

/// E4M3 weights, row after row; the bytes that stand for no number are read as 480 and -480.
#[derive(Debug, Clone, Copy)]
pub struct F8<'a> {
    /// The bytes.
    pub weights: &'a [u8],
    /// A scale to each 128 x 128 elements, `[ceil(rows / 128), ceil(cols / 128)]`.
    pub scales: F8Scales<'a>,
}

impl F8Scales<'_> {
    pub(crate) fn len(&self) -> usize {
        match self {
            F8Scales::F32(scales) => scales.len(),
            F8Scales::Bf16(scales) => scales.len(),
            F8Scales::E8M0(scales) => scales.len(),
        }
    }

    fn at(&self, index: usize) -> f32 {
        match self {
            F8Scales::F32(scales) => scales[index],
            F8Scales::Bf16(scales) => f32::from_bits(u32::from(scales[index]) << 16),
            F8Scales::E8M0(scales) => 2.0 * half_power(scales[index]),
        }
    }
}

impl F8<'_> {
    /// The scale of an element, which must exist, of a matrix of `cols` columns.
    pub fn scale(&self, cols: usize, row: usize, col: usize) -> f32 {
        let across = cols.div_ceil(F8_BLOCK);
        self.scales.at(row / F8_BLOCK * across + col / F8_BLOCK)
    }

    /// The element as it is decoded.
    pub(crate) fn value(&self, cols: usize, row: usize, col: usize) -> f32 {
        e4m3(self.weights[row * cols + col]) * self.scale(cols, row, col)
    }
}

/// What a byte of E4M3 stands for.
pub(crate) fn e4m3(byte: u8) -> f32 {
    let bits = u32::from(byte & 0x80) << 24 | u32::from(byte & 0x7f) << 20;
    f32::from_bits(bits) * LIFT
}

/// What bytes of E4M3, each in a word, stand for.
#[inline(always)]
pub(super) fn e4m3_lanes<L: Lanes>(l: L, bytes: L::I) -> L::F {
    let sign = l.shift_left::<24>(l.and_i(bytes, l.splat_i(0x80)));
    let magnitude = l.shift_left::<20>(l.and_i(bytes, l.splat_i(0x7f)));
    l.mul(l.bits_to_float(l.add_i(sign, magnitude)), l.splat(LIFT))
}

/// Decodes row `row` into `out`, one row long.
#[inline(always)]
pub(super) fn row<L: Lanes>(l: L, f8: &F8<'_>, row: usize, out: &mut [f32]) {
    let cols = out.len();
    let weights = &f8.weights[row * cols..][..cols];
    let blocks = weights.chunks(F8_BLOCK).zip(out.chunks_mut(F8_BLOCK));
    for (block, (weights, out)) in blocks.enumerate() {
        let scale = l.splat(f8.scale(cols, row, block * F8_BLOCK));
        let (chunks, tail) = weights.as_chunks();
        for (i, bytes) in chunks.iter().enumerate() {
            l.store_at(sixteen(l, bytes, scale), out, i * 16);
        }
        if !tail.is_empty() {
            let mut padded = [0; 16];
            padded[..tail.len()].copy_from_slice(tail);
            l.store_at(sixteen(l, &padded, scale), out, chunks.len() * 16);
        }
    }
}

#[inline(always)]
fn sixteen<L: Lanes>(l: L, bytes: &[u8; 16], scale: L::F) -> L::F {
    l.mul(e4m3_lanes(l, l.load_u8(bytes)), scale)
}
