//! Integer codings of weights, and how the kernels want them laid out: in tiles of 16 rows.
//!
//! A tile holds 16 rows side by side (the last tile of a matrix the rows that are left), so that
//! one load gives the same place of all of them, a row a lane. Along the rows it is divided into
//! units of [`UNIT`] elements. A unit has as many 32-bit words a row as its integers have bits,
//! and every word covers whole quads (four consecutive elements, one byte each): the words of a
//! 4-bit plane hold quad j in their low and quad j + 4 in their high halves of bytes; those of a
//! 2-bit plane four quads, those of a 1-bit plane eight, lowest bits first. Integers of 5, 6 and
//! 3 bits are a 4- or 2-bit plane and a 1- or 2-bit plane above it; those of 8 bits are quads as
//! they are. Word w of a unit stands for all rows before word w + 1.
//!
//! A tile takes the bytes that its rows take one after another, so a matrix is rearranged in
//! place ([`arrange`]). Affine codings keep scales and biases in slices of their own, group by
//! group. GGUF's block codings have them in the tile, before the words of each block, so that
//! memory is read in one stream.

mod arrange;
mod source;
mod view;

pub use arrange::arrange;
pub(crate) use arrange::spread_tile;
pub(crate) use view::{CodedTile, half_power};

use crate::{KernelError, check};

/// Rows of a tile.
pub(crate) const TILE: usize = 16;
/// Elements of a row that a unit holds.
pub(crate) const UNIT: usize = 32;

/// An integer coding: a weight is `(integer - zero) * scale + bias`. Where codes stand for uneven
/// levels, the integers are those levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// Unsigned integers with a bfloat16 scale and bias a group (MLX's layout before
    /// rearrangement: rows are little-endian bit streams, low bits first).
    Affine {
        /// Bits of an integer: 2, 3, 4, 5, 6 or 8.
        bits: u32,
        /// Elements of a row that share a scale and a bias: 32, 64 or 128.
        group: usize,
    },
    /// Unsigned integers minus half their range, with a bfloat16 scale a group (rows are
    /// little-endian bit streams, low bits first).
    Centered {
        /// Bits of an integer: 4 or 8.
        bits: u32,
        /// Elements of a row that share a scale: 32, 64 or 128.
        group: usize,
    },
    /// GGUF Q4_0: blocks of 32, a binary16 scale, 4 bits minus 8.
    Q4_0,
    /// GGUF Q4_1: blocks of 32, a binary16 scale and bias, 4 bits.
    Q4_1,
    /// GGUF Q5_0: blocks of 32, a binary16 scale, 5 bits minus 16.
    Q5_0,
    /// GGUF Q5_1: blocks of 32, a binary16 scale and bias, 5 bits.
    Q5_1,
    /// GGUF Q8_0: blocks of 32, a binary16 scale, 8 signed bits.
    Q8_0,
    /// GGUF Q2_K: blocks of 256, sixteen groups of 16 with 4-bit scales and minima, 2 bits.
    Q2K,
    /// GGUF Q3_K: blocks of 256, sixteen groups of 16 with 6-bit scales, 3 bits minus 4.
    Q3K,
    /// GGUF Q4_K: blocks of 256, eight groups of 32 with 6-bit scales and minima.
    Q4K,
    /// GGUF Q5_K: as Q4_K with 5 bits.
    Q5K,
    /// GGUF Q6_K: blocks of 256, sixteen groups of 16 with 8-bit scales, 6 bits minus 32.
    Q6K,
    /// GGUF IQ4_NL: blocks of 32, a binary16 scale, 4 bits for one of sixteen levels.
    Iq4Nl,
    /// GGUF IQ4_XS: blocks of 256, eight groups of 32 with 6-bit scales, the same levels.
    Iq4Xs,
    /// MXFP4: blocks of 32, a power of two, 4-bit floats.
    Mxfp4,
    /// NVFP4: blocks of 32, two groups of 16 with a scale (E4M3) each, 4-bit floats; one scale for
    /// the whole matrix, [`Coded::global`].
    Nvfp4,
}

/// The levels of IQ4_NL and IQ4_XS, 128 above.
pub(crate) const IQ4_LEVELS: [u8; 16] = [
    1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241,
];
/// The levels of E2M1, doubled, 12 above.
pub(crate) const E2M1_LEVELS: [u8; 16] =
    [12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0];

/// How the kernels of a coding want activations rounded to 8 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rounding {
    /// Activations that share a scale.
    pub group: usize,
    /// What the coding's integers stand above the weights'.
    pub zero: i32,
}

/// The weights of a matrix in an integer coding, in tiles.
#[derive(Debug, Clone, Copy)]
pub struct Coded<'a> {
    /// The coding.
    pub coding: Coding,
    /// The integers; of block codings the scales too.
    pub weights: &'a [u8],
    /// bfloat16 bits (affine, centered), else empty.
    pub scales: &'a [u16],
    /// bfloat16 bits (affine), else empty.
    pub biases: &'a [u16],
    /// What the groups' scales are multiplied with: 1 but for NVFP4.
    pub global: f32,
}

impl Coding {
    /// Bits of an integer, or of the code of a level.
    pub fn bits(self) -> usize {
        match self {
            Coding::Affine { bits, .. } | Coding::Centered { bits, .. } => bits as usize,
            Coding::Q2K => 2,
            Coding::Q3K => 3,
            Coding::Q4_0 | Coding::Q4_1 | Coding::Q4K => 4,
            Coding::Iq4Nl | Coding::Iq4Xs | Coding::Mxfp4 | Coding::Nvfp4 => 4,
            Coding::Q5_0 | Coding::Q5_1 | Coding::Q5K => 5,
            Coding::Q6K => 6,
            Coding::Q8_0 => 8,
        }
    }

    /// What codes stand for, if they are not the integers themselves.
    pub fn levels(self) -> Option<&'static [u8; 16]> {
        match self {
            Coding::Iq4Nl | Coding::Iq4Xs => Some(&IQ4_LEVELS),
            Coding::Mxfp4 | Coding::Nvfp4 => Some(&E2M1_LEVELS),
            _ => None,
        }
    }

    /// How its kernels want activations rounded.
    pub fn rounding(self) -> Rounding {
        let (group, zero) = match self {
            Coding::Affine { group, .. } => (group, 0),
            Coding::Centered { bits: 4, group } => (group, 8),
            Coding::Centered { group, .. } => (group, 128),
            Coding::Q4_0 => (32, 8),
            Coding::Q5_0 => (32, 16),
            Coding::Q8_0 | Coding::Iq4Nl | Coding::Iq4Xs => (32, 128),
            Coding::Mxfp4 => (32, 12),
            Coding::Nvfp4 => (16, 12),
            Coding::Q4_1 | Coding::Q5_1 | Coding::Q4K | Coding::Q5K => (32, 0),
            Coding::Q2K => (16, 0),
            Coding::Q3K => (16, 4),
            Coding::Q6K => (16, 32),
        };
        Rounding { group, zero }
    }

    /// Whether weights have a bias a group.
    pub fn has_bias(self) -> bool {
        use Coding::{Affine, Q2K, Q4_1, Q4K, Q5_1, Q5K};
        matches!(self, Affine { .. } | Q4_1 | Q5_1 | Q2K | Q4K | Q5K)
    }

    /// Units of a block, and the bytes of its scales a row; blocks of affine and centered
    /// codings are units.
    pub(crate) fn block_parts(self) -> (usize, usize) {
        match self {
            Coding::Affine { .. } | Coding::Centered { .. } => (1, 0),
            Coding::Q4_0 | Coding::Q5_0 | Coding::Q8_0 | Coding::Iq4Nl => (1, 2),
            Coding::Q4_1 | Coding::Q5_1 => (1, 4),
            Coding::Mxfp4 => (1, 1),
            Coding::Nvfp4 => (1, 2),
            Coding::Q2K => (8, 20),
            Coding::Q3K => (8, 14),
            Coding::Q4K | Coding::Q5K => (8, 16),
            Coding::Q6K => (8, 18),
            Coding::Iq4Xs => (8, 8),
        }
    }

    /// Bytes of a block a row, scales and integers.
    pub(crate) fn block_bytes(self) -> usize {
        let (units, scale_bytes) = self.block_parts();
        units * self.bits() * 4 + scale_bytes
    }

    /// Bytes of a row of `cols` weights in the slice `weights`.
    pub(crate) fn row_bytes(self, cols: usize) -> usize {
        let (units, _) = self.block_parts();
        check::product(&[cols / (units * UNIT), self.block_bytes()])
    }

    /// Lengths of a matrix's parts: bytes of weights, number of scales, number of biases.
    ///
    /// # Errors
    /// Bits, groups or a number of columns that the coding does not have.
    pub fn part_lengths(self, rows: usize, cols: usize) -> Result<[usize; 3], KernelError> {
        let (units, _) = self.block_parts();
        let (mut columns, mut scales) = (units * UNIT, 0);
        if let Coding::Affine { bits, group } | Coding::Centered { bits, group } = self {
            let known: &[u32] = match self {
                Coding::Centered { .. } => &[4, 8],
                _ => &[2, 3, 4, 5, 6, 8],
            };
            if !known.contains(&bits) {
                return Err(KernelError::Bits { bits });
            }
            if !matches!(group, 32 | 64 | 128) {
                return Err(KernelError::Group { group });
            }
            (columns, scales) = (group, check::product(&[rows, cols / group]));
        }
        check::multiple("matrix", "cols", cols, columns)?;
        let weights = check::product(&[rows, self.row_bytes(cols)]);
        let biases = match self {
            Coding::Centered { .. } => 0,
            _ => scales,
        };
        Ok([weights, scales, biases])
    }
}
