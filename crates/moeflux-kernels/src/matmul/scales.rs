//! Scales and biases of a tile's 16 rows, group by group, for each kind of coding.

use crate::coding::{CodedTile, TILE};
use crate::lanes::Lanes;

/// Bytes from the scales of a tile to those of the next: too far for the hardware to follow.
#[derive(Clone, Copy)]
struct NextTile(usize);

impl NextTile {
    #[inline(always)]
    fn of(tile: &CodedTile<'_>) -> Self {
        NextTile(tile.words.len() + tile.block_scales.len())
    }
}

/// Scales of a tile whose 16 lanes all exist.
pub(super) trait Scales: Copy {
    /// Groups in a unit, where they are shorter than one: 2, else 1.
    const SPLIT: usize;
    /// Whether there are biases.
    const BIAS: bool;
    /// Whether the integers have a zero to be taken off.
    const ZERO: bool;
    /// Units in a group (1 where groups are shorter).
    fn units(self) -> usize;
    /// Scales of group g.
    fn scale<L: Lanes>(self, l: L, g: usize) -> L::F;
    /// Biases of group g.
    fn bias<L: Lanes>(self, l: L, _g: usize) -> L::F {
        l.zero()
    }
    /// Announces that the same group of the next tile will be wanted.
    #[inline(always)]
    fn prefetch<L: Lanes>(self, _l: L, _g: usize) {}
}

/// bfloat16 scale and bias a group.
#[derive(Clone, Copy)]
pub(super) struct Affine<'a> {
    scales: &'a [[u16; TILE]],
    biases: &'a [[u16; TILE]],
    units: usize,
}

impl<'a> Affine<'a> {
    #[inline(always)]
    pub fn of(tile: &CodedTile<'a>) -> Self {
        Affine {
            scales: tile.scales.as_chunks().0,
            biases: tile.biases.as_chunks().0,
            units: tile.coding.rounding().group / crate::coding::UNIT,
        }
    }
}

impl Scales for Affine<'_> {
    const SPLIT: usize = 1;
    const BIAS: bool = true;
    const ZERO: bool = false;

    #[inline(always)]
    fn units(self) -> usize {
        self.units
    }

    #[inline(always)]
    fn scale<L: Lanes>(self, l: L, g: usize) -> L::F {
        l.load_bf16(&self.scales[g])
    }

    #[inline(always)]
    fn bias<L: Lanes>(self, l: L, g: usize) -> L::F {
        l.load_bf16(&self.biases[g])
    }
}

/// A binary16 scale a unit.
#[derive(Clone, Copy)]
pub(super) struct Half<'a>(&'a [[u8; 2 * TILE]], NextTile);

impl<'a> Half<'a> {
    #[inline(always)]
    pub fn of(tile: &CodedTile<'a>) -> Self {
        Half(tile.block_scales.as_chunks().0, NextTile::of(tile))
    }
}

impl Scales for Half<'_> {
    const SPLIT: usize = 1;
    const BIAS: bool = false;
    const ZERO: bool = true;

    #[inline(always)]
    fn units(self) -> usize {
        1
    }

    #[inline(always)]
    fn scale<L: Lanes>(self, l: L, g: usize) -> L::F {
        l.load_f16(&halves(&self.0[g]))
    }

    #[inline(always)]
    fn prefetch<L: Lanes>(self, l: L, g: usize) {
        l.prefetch(self.0.as_flattened(), self.1.0 + g * 2 * TILE);
    }
}

/// Blocks of eight groups with 6-bit scales and minima: three words, then two binary16.
#[derive(Clone, Copy)]
pub(super) struct SixBit<'a>(&'a [[u8; 16 * TILE]], NextTile);

impl<'a> SixBit<'a> {
    #[inline(always)]
    pub fn of(tile: &CodedTile<'a>) -> Self {
        SixBit(tile.block_scales.as_chunks().0, NextTile::of(tile))
    }

    /// Word w of a block's three.
    #[inline(always)]
    fn word<L: Lanes>(self, l: L, block: usize, w: usize) -> L::I {
        l.load_bytes(&self.0[block].as_chunks().0[w])
    }

    /// The binary16 behind the words.
    #[inline(always)]
    fn half<L: Lanes>(self, l: L, block: usize, at: usize) -> L::F {
        l.load_f16(&halves(&self.0[block].as_chunks().0[6 + at]))
    }

    /// Six bits of group j: from the word `own` for the first four groups, else the low or high
    /// half (from bit `shift` on) of the last word's byte with two bits of `own` above.
    #[inline(always)]
    fn integer<L: Lanes>(self, l: L, g: usize, own: usize, shift: u32) -> L::I {
        let (block, j) = (g / 8, g % 8);
        let byte = (j % 4 * 8) as u32;
        let own = l.shift_right_by(self.word(l, block, own), byte);
        if j < 4 {
            return l.and_i(own, l.splat_i(63));
        }
        let low = l.shift_right_by(self.word(l, block, 2), byte + shift);
        let low = l.and_i(low, l.splat_i(15));
        let high = l.and_i(l.shift_right::<6>(own), l.splat_i(3));
        l.add_i(low, l.shift_left::<4>(high))
    }
}

impl Scales for SixBit<'_> {
    const SPLIT: usize = 1;
    const BIAS: bool = true;
    const ZERO: bool = false;

    #[inline(always)]
    fn units(self) -> usize {
        1
    }

    #[inline(always)]
    fn scale<L: Lanes>(self, l: L, g: usize) -> L::F {
        let integer = self.integer(l, g, 0, 0);
        l.mul(self.half(l, g / 8, 0), l.to_float(integer))
    }

    #[inline(always)]
    fn bias<L: Lanes>(self, l: L, g: usize) -> L::F {
        let minimum = self.integer(l, g, 1, 4);
        let negative = l.sub_i(l.splat_i(0), minimum);
        l.mul(self.half(l, g / 8, 1), l.to_float(negative))
    }

    #[inline(always)]
    fn prefetch<L: Lanes>(self, l: L, g: usize) {
        l.prefetch(self.0.as_flattened(), self.1.0 + g * 2 * TILE);
    }
}

/// Blocks of sixteen groups of half a unit with 8-bit scales: four words, then a binary16.
#[derive(Clone, Copy)]
pub(super) struct EightBit<'a>(&'a [[u8; 18 * TILE]], NextTile);

impl<'a> EightBit<'a> {
    #[inline(always)]
    pub fn of(tile: &CodedTile<'a>) -> Self {
        EightBit(tile.block_scales.as_chunks().0, NextTile::of(tile))
    }
}

impl Scales for EightBit<'_> {
    const SPLIT: usize = 2;
    const BIAS: bool = false;
    const ZERO: bool = true;

    #[inline(always)]
    fn units(self) -> usize {
        1
    }

    #[inline(always)]
    fn scale<L: Lanes>(self, l: L, g: usize) -> L::F {
        let (block, j) = (&self.0[g / 16], g % 16);
        let word = l.load_bytes(&block.as_chunks().0[j / 4]);
        let byte = l.shift_right_by(word, (j % 4 * 8) as u32);
        // The byte's sign: flip its bit, then take off its place.
        let flipped = l.xor_i(l.and_i(byte, l.splat_i(255)), l.splat_i(128));
        let signed = l.sub_i(flipped, l.splat_i(128));
        let d = l.load_f16(&halves(&block.as_chunks().0[8]));
        l.mul(d, l.to_float(signed))
    }

    #[inline(always)]
    fn prefetch<L: Lanes>(self, l: L, g: usize) {
        l.prefetch(self.0.as_flattened(), self.1.0 + g / 2 * 36);
    }
}

/// Scales and biases that were computed before.
#[derive(Clone, Copy)]
pub(super) struct Maps<'a, const SPLIT: usize, const BIAS: bool, const ZERO: bool> {
    pub scales: &'a [[f32; TILE]],
    pub biases: &'a [[f32; TILE]],
    pub units: usize,
}

impl<const SPLIT: usize, const BIAS: bool, const ZERO: bool> Scales
    for Maps<'_, SPLIT, BIAS, ZERO>
{
    const SPLIT: usize = SPLIT;
    const BIAS: bool = BIAS;
    const ZERO: bool = ZERO;

    #[inline(always)]
    fn units(self) -> usize {
        self.units
    }

    #[inline(always)]
    fn scale<L: Lanes>(self, l: L, g: usize) -> L::F {
        l.load(&self.scales[g])
    }

    #[inline(always)]
    fn bias<L: Lanes>(self, l: L, g: usize) -> L::F {
        l.load(&self.biases[g])
    }
}

/// Evaluates `$body` with the quads and the scales of a tile's coding.
macro_rules! with_coding {
    ($tile:expr, |$quads:ident, $scales:ident| $body:expr) => {{
        use crate::coding::Coding;
        use crate::matmul::{quads::Planes, scales};
        let words = $tile.words.as_chunks().0;
        macro_rules! with {
            ($bits:literal, $kind:ident) => {{
                let ($quads, $scales) = (Planes::<$bits>(words), scales::$kind::of($tile));
                $body
            }};
        }
        match $tile.coding {
            Coding::Affine { bits: 2, .. } => with!(2, Affine),
            Coding::Affine { bits: 3, .. } => with!(3, Affine),
            Coding::Affine { bits: 4, .. } => with!(4, Affine),
            Coding::Affine { bits: 5, .. } => with!(5, Affine),
            Coding::Affine { bits: 6, .. } => with!(6, Affine),
            Coding::Affine { .. } => with!(8, Affine),
            Coding::Q4_0 => with!(4, Half),
            Coding::Q8_0 => with!(8, Half),
            Coding::Q4K => with!(4, SixBit),
            Coding::Q5K => with!(5, SixBit),
            Coding::Q6K => with!(6, EightBit),
        }
    }};
}
pub(super) use with_coding;

/// Sixteen little-endian halves.
#[inline(always)]
fn halves(bytes: &[u8; 2 * TILE]) -> [u16; TILE] {
    let mut out = [0; TILE];
    for (out, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
        *out = u16::from_le_bytes(*bytes);
    }
    out
}
