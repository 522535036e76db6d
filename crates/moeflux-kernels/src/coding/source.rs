//! Rows as they lie in files, unit by unit: quads of 16 rows at once.

use super::{Coding, UNIT};
use crate::lanes::Lanes;
use crate::matmul::unpack;

/// Low halves of all bytes.
const LOW: i32 = 0x0f0f_0f0f;

/// Sixteen rows of a coding, one after another.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub coding: Coding,
    pub bytes: &'a [u8],
    pub row_bytes: usize,
}

impl Rows<'_> {
    /// The eight quads of a unit, one byte an element.
    #[inline(always)]
    pub fn unit<L: Lanes>(&self, l: L, unit: usize) -> [L::I; 8] {
        match self.coding {
            Coding::Affine { bits: 4, .. } | Coding::Centered { bits: 4, .. } => {
                self.bit_stream_of_4(l, unit)
            }
            Coding::Centered { .. } => self.bytes_of_rows(l, unit * UNIT),
            Coding::Affine { bits: 8, .. } => self.bytes_of_rows(l, unit * UNIT),
            Coding::Affine { bits, .. } => self.bit_stream(l, bits, unit),
            Coding::Q4_0 | Coding::Iq4Nl | Coding::Nvfp4 => self.halves(l, self.block(unit) + 2),
            Coding::Q4_1 => self.halves(l, self.block(unit) + 4),
            Coding::Mxfp4 => self.halves(l, self.block(unit) + 1),
            Coding::Iq4Xs => self.halves(l, self.block(unit / 8) + 8 + unit % 8 * 16),
            Coding::Q5_0 => self.five_bits(l, self.block(unit) + 2),
            Coding::Q5_1 => self.five_bits(l, self.block(unit) + 4),
            Coding::Q8_0 => {
                let mut quads = self.bytes_of_rows(l, unit * self.coding.block_bytes() + 2);
                for quad in &mut quads {
                    *quad = l.xor_i(*quad, l.splat_i(0x8080_8080_u32 as i32));
                }
                quads
            }
            Coding::Q2K => self.pairs(l, self.block(unit / 8) + 16, unit % 8),
            Coding::Q3K => {
                let block = self.block(unit / 8);
                let low = self.pairs(l, block + 32, unit % 8);
                let high = self.bytes_of_rows(l, block);
                self.join::<L, 2>(l, low, high, unit % 8, 0x0101_0101)
            }
            Coding::Q4K => self.nibbles(
                l,
                unit / 8 * self.coding.block_bytes() + 16 + unit % 8 / 2 * 32,
                unit % 2 == 1,
            ),
            Coding::Q5K => {
                let block = unit / 8 * self.coding.block_bytes();
                let low = self.nibbles(l, block + 48 + unit % 8 / 2 * 32, unit % 2 == 1);
                let high = self.bytes_of_rows(l, block + 16);
                self.join::<L, 4>(l, low, high, unit % 8, 0x0101_0101)
            }
            Coding::Q6K => {
                let (block, half, part) =
                    (unit / 8 * self.coding.block_bytes(), unit % 8 / 4, unit % 4);
                let low = self.nibbles(l, block + half * 64 + part % 2 * 32, part / 2 == 1);
                let high = self.bytes_of_rows(l, block + 128 + half * 32);
                self.join::<L, 4>(l, low, high, part * 2, 0x0303_0303)
            }
        }
    }

    /// Where a block of each row begins.
    #[inline(always)]
    fn block(&self, block: usize) -> usize {
        block * self.coding.block_bytes()
    }

    /// Half bytes of 16 bytes: the low ones, then the high ones.
    #[inline(always)]
    fn halves<L: Lanes>(&self, l: L, at: usize) -> [L::I; 8] {
        let mut quads = [l.splat_i(0); 8];
        for (j, word) in self.words(l, at).into_iter().enumerate() {
            quads[j] = l.and_i(word, l.splat_i(LOW));
            quads[j + 4] = l.and_i(l.shift_right::<4>(word), l.splat_i(LOW));
        }
        quads
    }

    /// The same with a fifth bit above, element j's in bit j of the 4 bytes before.
    #[inline(always)]
    fn five_bits<L: Lanes>(&self, l: L, at: usize) -> [L::I; 8] {
        let mut quads = self.halves(l, at + 4);
        let bits = self.words(l, at)[0];
        for (j, quad) in quads.iter_mut().enumerate() {
            let four = l.and_i(l.shift_right_by(bits, 4 * j as u32), l.splat_i(15));
            let spread = l.add_i(
                l.add_i(four, l.shift_left::<7>(four)),
                l.add_i(l.shift_left::<14>(four), l.shift_left::<21>(four)),
            );
            let bit = l.and_i(spread, l.splat_i(0x0101_0101));
            *quad = l.add_i(*quad, l.shift_left::<4>(bit));
        }
        quads
    }

    /// Two bits of each of 32 bytes: those of unit `unit` of eight that share 64 bytes.
    #[inline(always)]
    fn pairs<L: Lanes>(&self, l: L, at: usize, unit: usize) -> [L::I; 8] {
        let mut quads = self.bytes_of_rows(l, at + unit / 4 * 32);
        for quad in &mut quads {
            let shifted = l.shift_right_by(*quad, (unit % 4 * 2) as u32);
            *quad = l.and_i(shifted, l.splat_i(0x0303_0303));
        }
        quads
    }

    /// 16 bytes of each row, from byte `at` of the row on.
    #[inline(always)]
    fn words<L: Lanes>(&self, l: L, at: usize) -> [L::I; 4] {
        l.load_quads(&self.bytes[at..], self.row_bytes)
    }

    /// 32 bytes of each row as quads.
    #[inline(always)]
    fn bytes_of_rows<L: Lanes>(&self, l: L, at: usize) -> [L::I; 8] {
        let (a, b) = (self.words(l, at), self.words(l, at + 16));
        [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]]
    }

    /// The low or high halves of 32 bytes of each row.
    #[inline(always)]
    fn nibbles<L: Lanes>(&self, l: L, at: usize, high: bool) -> [L::I; 8] {
        let mut quads = self.bytes_of_rows(l, at);
        for quad in &mut quads {
            let half = if high {
                l.shift_right::<4>(*quad)
            } else {
                *quad
            };
            *quad = l.and_i(half, l.splat_i(LOW));
        }
        quads
    }

    /// `low` with the bits of `high` from bit `shift` of each byte on above its `BITS` bits.
    #[inline(always)]
    fn join<L: Lanes, const BITS: u32>(
        &self,
        l: L,
        mut low: [L::I; 8],
        high: [L::I; 8],
        shift: usize,
        mask: i32,
    ) -> [L::I; 8] {
        for (low, high) in low.iter_mut().zip(high) {
            let high = l.and_i(l.shift_right_by(high, shift as u32), l.splat_i(mask));
            *low = l.add_i(*low, l.shift_left::<BITS>(high));
        }
        low
    }

    /// Words of eight consecutive 4-bit integers, spread to two quads each.
    #[inline(always)]
    fn bit_stream_of_4<L: Lanes>(&self, l: L, unit: usize) -> [L::I; 8] {
        let mut quads = [l.splat_i(0); 8];
        for (j, word) in self.words(l, unit * 16).into_iter().enumerate() {
            quads[2 * j] = spread(l, l.and_i(word, l.splat_i(0xffff)));
            quads[2 * j + 1] = spread(l, l.shift_right::<16>(word));
        }
        quads
    }

    /// Integers of any number of bits.
    #[inline(always)]
    fn bit_stream<L: Lanes>(&self, l: L, bits: u32, unit: usize) -> [L::I; 8] {
        let mut integers = [0; 16 * UNIT];
        let unit_bytes = UNIT / 8 * bits as usize;
        for (row, out) in integers.chunks_exact_mut(UNIT).enumerate() {
            let at = row * self.row_bytes + unit * unit_bytes;
            unpack(bits, &self.bytes[at..at + unit_bytes], out);
        }
        let rows = Rows {
            bytes: &integers,
            row_bytes: UNIT,
            ..*self
        };
        rows.bytes_of_rows(l, 0)
    }
}

/// Four 4-bit integers, the lower half of a word, a byte each.
#[inline(always)]
fn spread<L: Lanes>(l: L, half: L::I) -> L::I {
    let high = l.shift_left::<8>(l.and_i(half, l.splat_i(0xff00)));
    let pairs = l.add_i(l.and_i(half, l.splat_i(0x00ff)), high);
    let high = l.shift_left::<4>(l.and_i(pairs, l.splat_i(0x00f0_00f0)));
    l.add_i(l.and_i(pairs, l.splat_i(0x000f_000f)), high)
}
