//! One tile of a matrix, read element by element: the plain statement of the layout.

use super::{Coded, Coding, TILE, UNIT};
use crate::matmul::e4m3;

/// The rows `first .. first + lanes` of a matrix.
#[derive(Clone, Copy)]
pub(crate) struct CodedTile<'a> {
    pub coding: Coding,
    pub cols: usize,
    pub lanes: usize,
    /// Block after block: scales of all lanes, then words of all lanes.
    pub bytes: &'a [u8],
    /// `[groups, lanes]` of affine and centered codings.
    pub scales: &'a [u16],
    /// `[groups, lanes]` of affine codings, else empty.
    pub biases: &'a [u16],
    /// As in [`Coded`].
    pub global: f32,
}

impl<'a> Coded<'a> {
    /// The tile that begins at row `first`, a multiple of 16, of a matrix of this shape.
    #[inline(always)]
    pub(crate) fn tile(&self, rows: usize, cols: usize, first: usize) -> CodedTile<'a> {
        let lanes = TILE.min(rows - first);
        let row_bytes = self.coding.row_bytes(cols);
        let groups = match self.coding {
            Coding::Affine { group, .. } | Coding::Centered { group, .. } => cols / group,
            _ => 0,
        };
        let maps = first * groups..(first + lanes) * groups;
        let biases = match self.biases.is_empty() {
            true => &[],
            false => &self.biases[maps.clone()],
        };
        CodedTile {
            coding: self.coding,
            cols,
            lanes,
            bytes: &self.weights[first * row_bytes..(first + lanes) * row_bytes],
            scales: &self.scales[maps],
            biases,
            global: self.global,
        }
    }
}

impl CodedTile<'_> {
    /// The integer of element j in a lane (zero not taken off).
    pub fn integer(&self, lane: usize, j: usize) -> u32 {
        let code = self.code(lane, j);
        match self.coding.levels() {
            None => code,
            Some(levels) => u32::from(levels[code as usize & 15]),
        }
    }

    /// What is stored of it.
    fn code(&self, lane: usize, j: usize) -> u32 {
        let bits = self.coding.bits();
        let (unit, quad, element) = (j / UNIT, j % UNIT / 4, j % 4);
        let (units, scale_bytes) = self.coding.block_parts();
        let words = self.block(unit / units) + scale_bytes * self.lanes;
        let byte = |word: usize| {
            let at = ((unit % units * bits + word) * self.lanes + lane) * 4 + element;
            u32::from(self.bytes[words + at])
        };
        let four = |base: usize| (byte(base + quad % 4) >> (quad / 4 * 4)) & 15;
        let two = |base: usize| (byte(base + quad / 4) >> (quad % 4 * 2)) & 3;
        let one = |base: usize| (byte(base) >> quad) & 1;
        match bits {
            2 => two(0),
            3 => two(0) | one(2) << 2,
            4 => four(0),
            5 => four(0) | one(4) << 4,
            6 => four(0) | two(4) << 4,
            _ => byte(quad),
        }
    }

    /// Where a block begins.
    fn block(&self, block: usize) -> usize {
        block * self.lanes * self.coding.block_bytes()
    }

    /// Scale and bias of group g (of [`Coding::rounding`]'s length) in a lane.
    pub fn map(&self, lane: usize, g: usize) -> (f32, f32) {
        match self.coding {
            Coding::Affine { .. } => {
                let at = g * self.lanes + lane;
                (bf16(self.scales[at]), bf16(self.biases[at]))
            }
            Coding::Centered { .. } => (bf16(self.scales[g * self.lanes + lane]), 0.0),
            Coding::Q4_0 | Coding::Q5_0 | Coding::Q8_0 | Coding::Iq4Nl => {
                (self.half(self.block(g), lane), 0.0)
            }
            Coding::Q4_1 | Coding::Q5_1 => {
                let block = self.block(g);
                let bias = self.half(block + 2 * self.lanes, lane);
                (self.half(block, lane), bias)
            }
            Coding::Mxfp4 => (half_power(self.bytes[self.block(g) + lane]), 0.0),
            Coding::Nvfp4 => {
                let scale = self.bytes[self.block(g / 2) + g % 2 * self.lanes + lane];
                // Levels are doubled.
                (e4m3(scale) * (self.global * 0.5), 0.0)
            }
            Coding::Q2K => {
                let block = self.block(g / 16);
                let byte = self.byte(block, lane, g % 16);
                let d = self.half(block + 16 * self.lanes, lane);
                let d_min = self.half(block + 18 * self.lanes, lane);
                let minimum = -i32::from(byte >> 4);
                (d * f32::from(byte & 15), d_min * minimum as f32)
            }
            Coding::Q3K => {
                let (block, j) = (self.block(g / 16), g % 16);
                let low = self.byte(block, lane, j % 8) >> (j / 8 * 4) & 15;
                let high = self.byte(block, lane, 8 + j % 4) >> (j / 4 * 2) & 3;
                let d = self.half(block + 12 * self.lanes, lane);
                (d * (i32::from(low | high << 4) - 32) as f32, 0.0)
            }
            Coding::Iq4Xs => {
                let (block, j) = (self.block(g / 8), g % 8);
                let low = self.byte(block, lane, j / 2) >> (j % 2 * 4) & 15;
                let high = self.bytes[block + (6 + j / 4) * self.lanes + lane] >> (j % 4 * 2) & 3;
                let d = self.half(block + 4 * self.lanes, lane);
                (d * (i32::from(low | high << 4) - 32) as f32, 0.0)
            }
            Coding::Q4K | Coding::Q5K => {
                let block = self.block(g / 8);
                let (scale, minimum) = self.six_bits(block, lane, g % 8);
                let d = self.half(block + 12 * self.lanes, lane);
                let d_min = self.half(block + 14 * self.lanes, lane);
                (d * scale as f32, d_min * -(minimum as i32) as f32)
            }
            Coding::Q6K => {
                let block = self.block(g / 16);
                let scale = self.byte(block, lane, g % 16) as i8;
                let d = self.half(block + 16 * self.lanes, lane);
                (d * f32::from(scale), 0.0)
            }
        }
    }

    /// Byte i of a lane of the words that a block begins with.
    fn byte(&self, block: usize, lane: usize, i: usize) -> u8 {
        self.bytes[block + i / 4 * 4 * self.lanes + lane * 4 + i % 4]
    }

    /// A lane's binary16 of those that begin at a byte.
    fn half(&self, start: usize, lane: usize) -> f32 {
        let at = start + lane * 2;
        let bits = u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]]);
        half::f16::from_bits(bits).to_f32_const()
    }

    /// Scale and minimum j of a K block's eight, whose 12 bytes a lane are three words.
    fn six_bits(&self, block: usize, lane: usize, j: usize) -> (u32, u32) {
        let byte = |i: usize| u32::from(self.byte(block, lane, i));
        if j < 4 {
            return (byte(j) & 63, byte(j + 4) & 63);
        }
        (
            (byte(j + 4) & 15) | (byte(j - 4) >> 6) << 4,
            (byte(j + 4) >> 4) | (byte(j) >> 6) << 4,
        )
    }

    /// Element j of a lane, decoded: fma(integer - zero, scale, bias).
    pub fn value(&self, lane: usize, j: usize) -> f32 {
        let rounding = self.coding.rounding();
        let (scale, bias) = self.map(lane, j / rounding.group);
        let integer = self.integer(lane, j) as i32 - rounding.zero;
        (integer as f32).mul_add(scale, bias)
    }
}

/// Half the power of two that a byte stands for: 2^(e - 128), infinite for 255.
pub(crate) fn half_power(exponent: u8) -> f32 {
    f32::from_bits((u32::from(exponent) << 23).max(1 << 22)) * 0.5
}

fn bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}
