//! Scales of blocks of 256 elements.

use super::{Scales, halves};
use crate::coding::{CodedTile, TILE};
use crate::lanes::Lanes;

/// Blocks of eight groups with 6-bit scales and minima: three words, then two binary16.
#[derive(Clone, Copy)]
pub(in crate::matmul) struct SixBit<'a, const BITS: usize>(&'a [u8]);

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
pub(in crate::matmul) struct EightBit<'a, const BITS: usize>(&'a [u8]);

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

/// Blocks of sixteen groups of half a unit with 4-bit scales and minima: four words, then two
/// binary16.
#[derive(Clone, Copy)]
pub(in crate::matmul) struct FourBit<'a>(&'a [u8]);

impl<'a> FourBit<'a> {
    #[inline(always)]
    pub fn of(tile: &CodedTile<'a>) -> Self {
        FourBit(tile.bytes)
    }

    /// The bytes of a block's scales.
    #[inline(always)]
    fn block(self, g: usize) -> &'a [u8] {
        &self.0[g / 16 * (8 * 2 * 4 + 20) * TILE..][..20 * TILE]
    }

    /// Four bits of group g's byte, from bit `shift` on.
    #[inline(always)]
    fn integer<L: Lanes>(self, l: L, g: usize, shift: u32) -> L::I {
        let word = l.load_bytes(&self.block(g).as_chunks().0[g % 16 / 4]);
        let integer = l.shift_right_by(word, (g % 4 * 8) as u32 + shift);
        l.and_i(integer, l.splat_i(15))
    }

    #[inline(always)]
    fn half<L: Lanes>(self, l: L, g: usize, at: usize) -> L::F {
        l.load_f16(&halves(&self.block(g)[(16 + 2 * at) * TILE..]))
    }
}

impl Scales for FourBit<'_> {
    const SPLIT: usize = 2;
    const BIAS: bool = true;
    const ZERO: bool = false;

    #[inline(always)]
    fn scale<L: Lanes>(self, l: L, g: usize) -> L::F {
        let integer = self.integer(l, g, 0);
        l.mul(self.half(l, g, 0), l.to_float(integer))
    }

    #[inline(always)]
    fn bias<L: Lanes>(self, l: L, g: usize) -> L::F {
        let negative = l.sub_i(l.splat_i(0), self.integer(l, g, 4));
        l.mul(self.half(l, g, 1), l.to_float(negative))
    }
}

/// Blocks of sixteen groups of half a unit with 6-bit scales: three words, then a binary16.
#[derive(Clone, Copy)]
pub(in crate::matmul) struct SplitSix<'a>(&'a [u8]);

impl<'a> SplitSix<'a> {
    #[inline(always)]
    pub fn of(tile: &CodedTile<'a>) -> Self {
        SplitSix(tile.bytes)
    }
}

impl Scales for SplitSix<'_> {
    const SPLIT: usize = 2;
    const BIAS: bool = false;
    const ZERO: bool = true;

    #[inline(always)]
    fn scale<L: Lanes>(self, l: L, g: usize) -> L::F {
        let (at, j) = (g / 16 * (8 * 3 * 4 + 14) * TILE, g % 16);
        let block = &self.0[at..][..14 * TILE];
        let words = block.as_chunks().0;
        let byte = (j % 4 * 8) as u32;
        let low = l.load_bytes(&words[j % 8 / 4]);
        let low = l.shift_right_by(low, byte + (j / 8 * 4) as u32);
        let high = l.shift_right_by(l.load_bytes(&words[2]), byte + (j / 4 * 2) as u32);
        let d = l.load_f16(&halves(&block[12 * TILE..]));
        six_bit_scale(l, d, low, high)
    }
}

/// Blocks of eight groups with 6-bit scales: a word, a binary16, two bytes.
#[derive(Clone, Copy)]
pub(in crate::matmul) struct ExtraSmall<'a>(&'a [u8]);

impl<'a> ExtraSmall<'a> {
    #[inline(always)]
    pub fn of(tile: &CodedTile<'a>) -> Self {
        ExtraSmall(tile.bytes)
    }
}

impl Scales for ExtraSmall<'_> {
    const BIAS: bool = false;
    const ZERO: bool = true;

    #[inline(always)]
    fn scale<L: Lanes>(self, l: L, g: usize) -> L::F {
        let (at, j) = (g / 8 * (8 * 4 * 4 + 8) * TILE, g % 8);
        let block = &self.0[at..][..8 * TILE];
        let low = l.load_bytes(&block.as_chunks().0[0]);
        let low = l.shift_right_by(low, (j * 4) as u32);
        let high = l.load_u8(&block.as_chunks().0[6 + j / 4]);
        let high = l.shift_right_by(high, (j % 4 * 2) as u32);
        let d = l.load_f16(&halves(&block[4 * TILE..]));
        six_bit_scale(l, d, low, high)
    }
}

/// `d * (s - 32)`, where `low` begins with four and `high` with two bits of s.
#[inline(always)]
fn six_bit_scale<L: Lanes>(l: L, d: L::F, low: L::I, high: L::I) -> L::F {
    let (low, high) = (l.and_i(low, l.splat_i(15)), l.and_i(high, l.splat_i(3)));
    let integer = l.add_i(low, l.shift_left::<4>(high));
    l.mul(d, l.to_float(l.sub_i(integer, l.splat_i(32))))
}
