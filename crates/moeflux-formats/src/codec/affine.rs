//! Codec `affine-bB-gG`: unsigned integers of B bits in groups of G along a row, `w = q * scale +
//! bias`.
//!
//! Layout (that of MLX, whose checkpoints load unchanged):
//! - `weight` U32 `[rows, cols * B / 32]`: a row is one little-endian bit stream, element `j` at
//!   bits `[j * B, (j + 1) * B)`, lowest bit first. Eight elements take exactly B bytes, whatever B
//!   is.
//! - `scales`, `biases` BF16 `[rows, cols / G]`. A scale may be negative.
//!
//! `q * scale` has at most 16 significant bits, so it is exact in f32, and `q * scale + bias`
//! rounds once: a fused multiply-add gives the same bits.

mod bits;
mod fit;

use std::fmt;
use std::str::FromStr;

use super::fit::{Group, Line};
use super::{Encoded, EncodedMut, bf16, importance_of};
use crate::error::CodecError;
use fit::fit_group;

/// An affine codec: [`AffineCodec::new`] checks its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AffineCodec {
    /// Bits of an element: 2, 3, 4, 5, 6 or 8.
    pub bits: u32,
    /// Elements that share a scale and a bias: 32, 64 or 128.
    pub group: usize,
}

impl AffineCodec {
    /// A codec of `bits` (2, 3, 4, 5, 6, 8) and groups of `group` (32, 64, 128).
    ///
    /// # Errors
    /// Other numbers.
    pub fn new(bits: u32, group: usize) -> Result<Self, CodecError> {
        let codec = Self { bits, group };
        codec.check()?;
        Ok(codec)
    }

    /// Bytes of a row of `cols` elements, without scales and biases.
    #[must_use]
    pub fn row_bytes(self, cols: usize) -> usize {
        cols / 8 * self.bits as usize
    }

    /// Whether rows of `cols` elements divide into groups.
    ///
    /// # Errors
    /// They do not, or the codec's own numbers are not supported.
    pub fn check_columns(self, cols: usize) -> Result<(), CodecError> {
        self.check()?;
        if cols.is_multiple_of(self.group) {
            return Ok(());
        }
        Err(CodecError::Columns {
            cols,
            group: self.group,
        })
    }

    fn check(self) -> Result<(), CodecError> {
        if !matches!(self.bits, 2 | 3 | 4 | 5 | 6 | 8) {
            return Err(CodecError::Bits(self.bits));
        }
        if !matches!(self.group, 32 | 64 | 128) {
            return Err(CodecError::Group(self.group));
        }
        Ok(())
    }

    /// Quantizes whole groups. `importance` is of a row's columns, or empty. The caller has checked
    /// lengths.
    pub(super) fn encode(
        self,
        values: &[f32],
        importance: &[f32],
        out: EncodedMut<'_>,
    ) -> Result<(), CodecError> {
        match self.group {
            32 => self.encode_groups::<32>(values, importance, out),
            64 => self.encode_groups::<64>(values, importance, out),
            _ => self.encode_groups::<128>(values, importance, out),
        }
    }

    fn encode_groups<const GROUP: usize>(
        self,
        values: &[f32],
        importance: &[f32],
        out: EncodedMut<'_>,
    ) -> Result<(), CodecError> {
        let alike = [1.0; GROUP];
        let levels = ((1_u32 << self.bits) - 1) as f32;
        let groups = values.as_chunks::<GROUP>().0.iter();
        let scales = out.scales.as_chunks_mut::<2>().0.iter_mut();
        let biases = out.biases.as_chunks_mut::<2>().0.iter_mut();
        let weights = out.weights.chunks_exact_mut(GROUP / 8 * self.bits as usize);
        for (index, (((group, weights), scale), bias)) in
            groups.zip(weights).zip(scales).zip(biases).enumerate()
        {
            let group = Group {
                values: group,
                weights: importance_of(importance, index, &alike),
            };
            let Some((line, codes)) = fit_group(group, levels) else {
                let (place, value) = largest(group.values);
                let index = index * GROUP + place;
                return Err(CodecError::Value {
                    codec: "affine",
                    index,
                    value,
                });
            };
            *scale = bf16::round(line.step).to_le_bytes();
            *bias = bf16::round(line.base).to_le_bytes();
            bits::pack(self.bits, &codes, weights);
        }
        Ok(())
    }

    /// Dequantizes whole groups. The caller has checked lengths.
    pub(super) fn decode(self, encoded: &Encoded, out: &mut [f32]) {
        let scales = encoded.scales.as_chunks::<2>().0;
        let biases = encoded.biases.as_chunks::<2>().0;
        let weights = encoded
            .weights
            .chunks_exact(self.group / 8 * self.bits as usize);
        let groups = out.chunks_exact_mut(self.group);
        for (((group, weights), &scale), &bias) in groups.zip(weights).zip(scales).zip(biases) {
            let scale = bf16::widen(u16::from_le_bytes(scale));
            let bias = bf16::widen(u16::from_le_bytes(bias));
            let line = Line {
                step: scale,
                base: bias,
            };
            bits::unpack(self.bits, weights, group);
            group
                .iter_mut()
                .for_each(|value| *value = line.value(*value));
        }
    }
}

/// The value to blame for a group that cannot be encoded: the first NaN, else the largest
/// magnitude.
fn largest(group: &[f32]) -> (usize, f32) {
    let size = |value: f32| {
        if value.is_nan() {
            f32::INFINITY
        } else {
            value.abs()
        }
    };
    group
        .iter()
        .copied()
        .enumerate()
        .fold((0, 0.0), |found: (usize, f32), (place, value)| {
            if size(value) > size(found.1) {
                (place, value)
            } else {
                found
            }
        })
}

impl fmt::Display for AffineCodec {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "affine-b{}-g{}", self.bits, self.group)
    }
}

impl FromStr for AffineCodec {
    type Err = CodecError;

    fn from_str(name: &str) -> Result<Self, CodecError> {
        let unknown = || CodecError::UnknownName(name.to_owned());
        let numbers = name.strip_prefix("affine-b").ok_or_else(unknown)?;
        let (bits, group) = numbers.split_once("-g").ok_or_else(unknown)?;
        let bits = bits.parse().map_err(|_| unknown())?;
        Self::new(bits, group.parse().map_err(|_| unknown())?)
    }
}
