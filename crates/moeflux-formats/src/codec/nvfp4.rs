//! Codec `nvfp4`: `w = LEVELS[q] * (scale * global)` with 4-bit floats (E2M1), a scale (E4M3) to 16
//! elements of a row and one f32 for the whole matrix.
//!
//! - `nvfp4` U8 `[rows, cols / 32 * 18]`: blocks of 32 elements,
//!
//! | bytes | |
//! |---|---|
//! | 0, 1 | the scales of elements 0 to 15 and 16 to 31 |
//! | 2..18 | byte `j`: element `j` in the low half, element `j + 16` in the high half |
//!
//! - `nvfp4_scale` F32 `[1, 1]`: `global`.
//!
//! Safetensors files as they are published have codes, scales and `global` in tensors of their own
//! ([`join`](e2m1::join)); those of compressed-tensors the reciprocal of `global`, which
//! [`invert`] turns around. A value takes two roundings: of the product of the scales, and of that
//! with the level.

use super::{Encoded, e2m1, f8};
use crate::error::CodecError;

/// What the tensor of the blocks is called.
pub const BLOCKS: &str = "nvfp4";

/// What the tensor of the matrix's scale is called.
pub const SCALE: &str = "nvfp4_scale";

/// Elements that share a scale.
pub const GROUP: usize = 16;

/// Bytes of a block's scales.
pub const SCALES: usize = e2m1::BLOCK / GROUP;

/// Bytes of a block.
pub const BYTES: usize = SCALES + e2m1::CODES;

/// Bytes of a row of `cols` elements, a multiple of 32.
#[must_use]
pub fn row_bytes(cols: usize) -> usize {
    cols / e2m1::BLOCK * BYTES
}

/// Whether rows of `cols` elements divide into blocks.
///
/// # Errors
/// [`CodecError::Columns`].
pub fn check_columns(cols: usize) -> Result<(), CodecError> {
    let group = e2m1::BLOCK;
    if cols.is_multiple_of(group) {
        return Ok(());
    }
    Err(CodecError::Columns { cols, group })
}

/// Turns a little-endian f32 into its reciprocal; other lengths stay.
pub fn invert(scale: &mut [u8]) {
    if let Ok(bytes) = <[u8; 4]>::try_from(&*scale) {
        scale.copy_from_slice(&f32::from_le_bytes(bytes).recip().to_le_bytes());
    }
}

/// Decodes whole blocks. The caller has checked lengths.
pub(super) fn decode(encoded: &Encoded, out: &mut [f32]) {
    let global = encoded.scales.as_chunks().0.first();
    let half = global.map_or(f32::NAN, |bytes| f32::from_le_bytes(*bytes)) * 0.5;
    let blocks = encoded.weights.as_chunks::<BYTES>().0.iter();
    for (block, out) in blocks.zip(out.as_chunks_mut::<{ e2m1::BLOCK }>().0) {
        let scale = |j: usize| f8::value(block[j / GROUP]) * half;
        e2m1::decode(&block[SCALES..], scale, out);
    }
}
