//! Scales and biases of a tile's 16 rows, group by group, for each kind of coding.

use crate::coding::{CodedTile, TILE};
use crate::lanes::Lanes;

/// Scales of a tile whose 16 lanes all exist.
pub(super) trait Scales: Copy {
    /// Groups in a unit, where they are shorter than one: 2, else 1.
    const SPLIT: usize = 1;
    /// Whether there are biases.
    const BIAS: bool;
    /// Whether the integers have a zero to be taken off.
    const ZERO: bool;
    /// Units in a group (1 where groups are shorter).
    #[inline(always)]
    fn units(self) -> usize {
        1
    }
    /// Scales of group g.
    fn scale<L: Lanes>(self, l: L, g: usize) -> L::F;
    /// Biases of group g.
    #[inline(always)]
    fn bias<L: Lanes>(self, l: L, _g: usize) -> L::F {
        l.zero()
    }
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
pub(super) struct Half<'a, const BITS: usize>(&'a [u8]);

impl<'a, const BITS: usize> Half<'a, BITS> {
    #[inline(always)]
    pub fn of(tile: &CodedTile<'a>) -> Self {
        Half(tile.bytes)
    }
}

impl<const BITS: usize> Scales for Half<'_, BITS> {
    const BIAS: bool = false;
    const ZERO: bool = true;

    #[inline(always)]
    fn scale<L: Lanes>(self, l: L, g: usize) -> L::F {
        l.load_f16(&halves(&self.0[g * (BITS * 4 + 2) * TILE..]))
    }
}

/// Blocks of eight groups with 6-bit scales and minima: three words, then two binary16.
#[derive(Clone, Copy)]
pub(super) struct SixBit<'a, const BITS: usize>(&'a [u8]);

impl<'a, const BITS: usize> SixBit<'a, BITS> {
    #[inline(always)]
    pub fn of(tile: &CodedTile<'a>) -> Self {
        SixBit(tile.bytes)
    }

    /// The bytes from a block's scales on.
    #[inline(always)]
    fn block(self, block: usize) -> &'a [u8] {
        &self.0[block * (8 * BITS * 4 + 16) * TILE..][..16 * TILE]
    }

    /// Word w of a block's three.
    #[inline(always)]
    fn word<L: Lanes>(self, l: L, block: usize, w: usize) -> L::I {
        l.load_bytes(&self.block(block).as_chunks().0[w])
    }

    /// The binary16 behind the words.
    #[inline(always)]
    fn half<L: Lanes>(self, l: L, block: usize, at: usize) -> L::F {
        l.load_f16(&halves(&self.block(block)[(12 + 2 * at) * TILE..]))
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

impl<const BITS: usize> Scales for SixBit<'_, BITS> {
    const BIAS: bool = true;
    const ZERO: bool = false;

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
}

/// Blocks of sixteen groups of half a unit with 8-bit scales: four words, then a binary16.
#[derive(Clone, Copy)]
pub(super) struct EightBit<'a, const BITS: usize>(&'a [u8]);

impl<'a, const BITS: usize> EightBit<'a, BITS> {
    #[inline(always)]
    pub fn of(tile: &CodedTile<'a>) -> Self {
        EightBit(tile.bytes)
    }
}

impl<const BITS: usize> Scales for EightBit<'_, BITS> {
    const SPLIT: usize = 2;
    const BIAS: bool = false;
    const ZERO: bool = true;

    #[inline(always)]
    fn scale<L: Lanes>(self, l: L, g: usize) -> L::F {
        let (at, j) = (g / 16 * (8 * BITS * 4 + 18) * TILE, g % 16);
        let block = &self.0[at..][..18 * TILE];
        let word = l.load_bytes(&block.as_chunks().0[j / 4]);
        let byte = l.shift_right_by(word, (j % 4 * 8) as u32);
        // The byte's sign: flip its bit, then take off its place.
        let flipped = l.xor_i(l.and_i(byte, l.splat_i(255)), l.splat_i(128));
        let signed = l.sub_i(flipped, l.splat_i(128));
        let d = l.load_f16(&halves(&block[16 * TILE..]));
        l.mul(d, l.to_float(signed))
    }
}

/// Scales and biases that were computed before.
#[derive(Clone, Copy)]
pub(super) struct Maps<'a> {
    pub scales: &'a [[f32; TILE]],
    pub biases: &'a [[f32; TILE]],
}

/// Evaluates `$body` with the quads and the scales of a tile's coding.
macro_rules! with_coding {
    ($tile:expr, |$quads:ident, $scales:ident| $body:expr) => {{
        use crate::coding::Coding;
        use crate::matmul::{quads::Planes, scales};
        macro_rules! with {
            ($bits:literal, $units:literal, $scale_bytes:literal, $kind:ty) => {{
                let $quads = Planes::<$bits, $units, $scale_bytes>($tile.bytes);
                let $scales = <$kind>::of($tile);
                $body
            }};
        }
        match $tile.coding {
            Coding::Affine { bits: 2, .. } => with!(2, 1, 0, scales::Affine<'_>),
            Coding::Affine { bits: 3, .. } => with!(3, 1, 0, scales::Affine<'_>),
            Coding::Affine { bits: 4, .. } => with!(4, 1, 0, scales::Affine<'_>),
            Coding::Affine { bits: 5, .. } => with!(5, 1, 0, scales::Affine<'_>),
            Coding::Affine { bits: 6, .. } => with!(6, 1, 0, scales::Affine<'_>),
            Coding::Affine { .. } => with!(8, 1, 0, scales::Affine<'_>),
            Coding::Q4_0 => with!(4, 1, 2, scales::Half<'_, 4>),
            Coding::Q8_0 => with!(8, 1, 2, scales::Half<'_, 8>),
            Coding::Q4K => with!(4, 8, 16, scales::SixBit<'_, 4>),
            Coding::Q5K => with!(5, 8, 16, scales::SixBit<'_, 5>),
            Coding::Q6K => with!(6, 8, 18, scales::EightBit<'_, 6>),
        }
    }};
}
pub(super) use with_coding;

/// Sixteen little-endian halves.
#[inline(always)]
fn halves(bytes: &[u8]) -> [u16; TILE] {
    let mut out = [0; TILE];
    for (out, bytes) in out.iter_mut().zip(bytes[..2 * TILE].as_chunks().0) {
        *out = u16::from_le_bytes(*bytes);
    }
    out
}
