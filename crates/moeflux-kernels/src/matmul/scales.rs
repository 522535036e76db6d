//! Scales and biases of a tile's 16 rows, group by group, for each kind of coding.

mod blocks;

pub(in crate::matmul) use blocks::{EightBit, ExtraSmall, FourBit, SixBit, SplitSix};

use crate::coding::{CodedTile, TILE};
use crate::lanes::Lanes;
use crate::matmul::f8::e4m3_lanes;

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

/// bfloat16 scale a group.
#[derive(Clone, Copy)]
pub(super) struct Centered<'a> {
    scales: &'a [[u16; TILE]],
    units: usize,
}

impl<'a> Centered<'a> {
    #[inline(always)]
    pub fn of(tile: &CodedTile<'a>) -> Self {
        Centered {
            scales: tile.scales.as_chunks().0,
            units: tile.coding.rounding().group / crate::coding::UNIT,
        }
    }
}

impl Scales for Centered<'_> {
    const BIAS: bool = false;
    const ZERO: bool = true;

    #[inline(always)]
    fn units(self) -> usize {
        self.units
    }

    #[inline(always)]
    fn scale<L: Lanes>(self, l: L, g: usize) -> L::F {
        l.load_bf16(&self.scales[g])
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

/// A binary16 scale and bias a unit.
#[derive(Clone, Copy)]
pub(super) struct Halves<'a, const BITS: usize>(&'a [u8]);

impl<'a, const BITS: usize> Halves<'a, BITS> {
    #[inline(always)]
    pub fn of(tile: &CodedTile<'a>) -> Self {
        Halves(tile.bytes)
    }

    #[inline(always)]
    fn unit(self, g: usize) -> &'a [u8] {
        &self.0[g * (BITS * 4 + 4) * TILE..][..4 * TILE]
    }
}

impl<const BITS: usize> Scales for Halves<'_, BITS> {
    const BIAS: bool = true;
    const ZERO: bool = false;

    #[inline(always)]
    fn scale<L: Lanes>(self, l: L, g: usize) -> L::F {
        l.load_f16(&halves(self.unit(g)))
    }

    #[inline(always)]
    fn bias<L: Lanes>(self, l: L, g: usize) -> L::F {
        l.load_f16(&halves(&self.unit(g)[2 * TILE..]))
    }
}

/// A power of two a unit, of levels that are doubled.
#[derive(Clone, Copy)]
pub(super) struct HalfPower<'a>(&'a [u8]);

impl<'a> HalfPower<'a> {
    #[inline(always)]
    pub fn of(tile: &CodedTile<'a>) -> Self {
        HalfPower(tile.bytes)
    }
}

impl Scales for HalfPower<'_> {
    const BIAS: bool = false;
    const ZERO: bool = true;

    #[inline(always)]
    fn scale<L: Lanes>(self, l: L, g: usize) -> L::F {
        let exponents = l.load_u8(&self.0.as_chunks().0[g * 17]);
        let power = l.bits_to_float(l.shift_left::<23>(exponents));
        // The least power is subnormal; its exponent of 0 alone would be a zero.
        let least = l.splat(f32::from_bits(1 << 22));
        let power = l.if_greater(power, l.zero(), power, least);
        l.mul(power, l.splat(0.5))
    }
}

/// E4M3 scales of two groups a unit, and one of the matrix, of levels that are doubled.
#[derive(Clone, Copy)]
pub(super) struct Nested<'a> {
    bytes: &'a [u8],
    half_global: f32,
}

impl<'a> Nested<'a> {
    #[inline(always)]
    pub fn of(tile: &CodedTile<'a>) -> Self {
        Nested {
            bytes: tile.bytes,
            half_global: tile.global * 0.5,
        }
    }
}

impl Scales for Nested<'_> {
    const SPLIT: usize = 2;
    const BIAS: bool = false;
    const ZERO: bool = true;

    #[inline(always)]
    fn scale<L: Lanes>(self, l: L, g: usize) -> L::F {
        let bytes = l.load_u8(&self.bytes.as_chunks().0[g / 2 * 18 + g % 2]);
        l.mul(e4m3_lanes(l, bytes), l.splat(self.half_global))
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
        use crate::coding::{Coding, E2M1_LEVELS, IQ4_LEVELS};
        use crate::matmul::{
            quads::{Leveled, Planes},
            scales,
        };
        macro_rules! with {
            ($bits:literal, $units:literal, $scale_bytes:literal, $kind:ty) => {{
                let $quads = Planes::<$bits, $units, $scale_bytes>($tile.bytes);
                let $scales = <$kind>::of($tile);
                $body
            }};
        }
        macro_rules! leveled {
            ($levels:ident, $wide:literal, $units:literal, $scale_bytes:literal, $kind:ty) => {{
                let planes = Planes::<4, $units, $scale_bytes>($tile.bytes);
                let $quads = Leveled::<_, $wide>(planes, &$levels);
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
            Coding::Centered { bits: 4, .. } => with!(4, 1, 0, scales::Centered<'_>),
            Coding::Centered { .. } => with!(8, 1, 0, scales::Centered<'_>),
            Coding::Q4_0 => with!(4, 1, 2, scales::Half<'_, 4>),
            Coding::Q4_1 => with!(4, 1, 4, scales::Halves<'_, 4>),
            Coding::Q5_0 => with!(5, 1, 2, scales::Half<'_, 5>),
            Coding::Q5_1 => with!(5, 1, 4, scales::Halves<'_, 5>),
            Coding::Q8_0 => with!(8, 1, 2, scales::Half<'_, 8>),
            Coding::Q2K => with!(2, 8, 20, scales::FourBit<'_>),
            Coding::Q3K => with!(3, 8, 14, scales::SplitSix<'_>),
            Coding::Q4K => with!(4, 8, 16, scales::SixBit<'_, 4>),
            Coding::Q5K => with!(5, 8, 16, scales::SixBit<'_, 5>),
            Coding::Q6K => with!(6, 8, 18, scales::EightBit<'_, 6>),
            Coding::Iq4Nl => leveled!(IQ4_LEVELS, true, 1, 2, scales::Half<'_, 4>),
            Coding::Iq4Xs => leveled!(IQ4_LEVELS, true, 8, 8, scales::ExtraSmall<'_>),
            Coding::Mxfp4 => leveled!(E2M1_LEVELS, false, 1, 1, scales::HalfPower<'_>),
            Coding::Nvfp4 => leveled!(E2M1_LEVELS, false, 1, 2, scales::Nested<'_>),
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
