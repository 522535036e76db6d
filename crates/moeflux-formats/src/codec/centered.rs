//! Codec `centered-bB-gG`: integers of B bits in groups of G along a row with a scale and no bias,
//! `w = (q - 2^(B - 1)) * scale`, as compressed-tensors stores symmetric integers
//! (`pack-quantized`).
//!
//! - `weight_packed` I32 `[rows, cols * B / 32]`: a row is a little-endian bit stream, lowest bit
//!   first;
//! - `weight_scale` BF16 `[rows, cols / G]`;
//! - `weight_shape`, which repeats the shape.

use std::fmt;

use super::{Encoded, bf16};
use crate::error::CodecError;

/// A centered codec: [`CenteredCodec::new`] checks its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CenteredCodec {
    /// Bits of an element: 4 or 8.
    pub bits: u32,
    /// Elements that share a scale: 32, 64 or 128.
    pub group: usize,
}

impl CenteredCodec {
    /// A codec of `bits` (4, 8) and groups of `group` (32, 64, 128).
    ///
    /// # Errors
    /// Other numbers.
    pub fn new(bits: u32, group: usize) -> Result<Self, CodecError> {
        if !matches!(bits, 4 | 8) {
            return Err(CodecError::Bits(bits));
        }
        if !matches!(group, 32 | 64 | 128) {
            return Err(CodecError::Group(group));
        }
        Ok(Self { bits, group })
    }

    /// Bytes of a row of `cols` elements, without scales.
    #[must_use]
    pub fn row_bytes(self, cols: usize) -> usize {
        cols / 8 * self.bits as usize
    }

    /// Whether rows of `cols` elements divide into groups.
    ///
    /// # Errors
    /// [`CodecError::Columns`].
    pub fn check_columns(self, cols: usize) -> Result<(), CodecError> {
        let Self { group, .. } = Self::new(self.bits, self.group)?;
        if cols.is_multiple_of(group) {
            return Ok(());
        }
        Err(CodecError::Columns { cols, group })
    }

    /// The codec of a name such as `centered-b4-g32`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let (bits, group) = name.strip_prefix("centered-b")?.split_once("-g")?;
        Self::new(bits.parse().ok()?, group.parse().ok()?).ok()
    }

    /// Decodes whole groups, exact but for the rounding of the product. The caller has checked
    /// lengths.
    pub(super) fn decode(self, encoded: &Encoded, out: &mut [f32]) {
        let per_byte = 8 / self.bits as usize;
        let mask = ((1_u32 << self.bits) - 1) as u8;
        let zero = (1_u32 << (self.bits - 1)) as f32;
        for (place, out) in out.iter_mut().enumerate() {
            let byte = encoded.weights[place / per_byte];
            let code = byte >> (place % per_byte * self.bits as usize) & mask;
            let at = place / self.group * 2;
            let scale = [encoded.scales[at], encoded.scales[at + 1]];
            *out = (f32::from(code) - zero) * bf16::widen(u16::from_le_bytes(scale));
        }
    }
}

impl fmt::Display for CenteredCodec {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "centered-b{}-g{}", self.bits, self.group)
    }
}
