//! Codec `f16`: little-endian IEEE half precision, rounded to nearest even.

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::error::CodecError;

/// Values converted at a time, through a buffer that is aligned for 16-bit elements.
const BLOCK: usize = 1024;

/// Stores `values` in `out`, 2 bytes each. Magnitudes above 65,504 (but for infinities and NaN,
/// which are kept) cannot be held.
pub(super) fn encode(values: &[f32], out: &mut [u8]) -> Result<(), CodecError> {
    let mut block = [f16::ZERO; BLOCK];
    for (part, (values, out)) in values
        .chunks(BLOCK)
        .zip(out.chunks_mut(2 * BLOCK))
        .enumerate()
    {
        let block = &mut block[..values.len()];
        block.convert_from_f32_slice(values);
        for (place, (&value, half)) in values.iter().zip(block.iter()).enumerate() {
            if half.is_infinite() && value.is_finite() {
                let index = part * BLOCK + place;
                return Err(CodecError::Value {
                    codec: "f16",
                    index,
                    value,
                });
            }
        }
        for (half, bytes) in block.iter().zip(out.as_chunks_mut::<2>().0) {
            *bytes = half.to_le_bytes();
        }
    }
    Ok(())
}

/// Reads `out` from 2 bytes each; exact.
pub(super) fn decode(bytes: &[u8], out: &mut [f32]) {
    let mut block = [f16::ZERO; BLOCK];
    for (bytes, out) in bytes.chunks(2 * BLOCK).zip(out.chunks_mut(BLOCK)) {
        let block = &mut block[..out.len()];
        for (&bytes, half) in bytes.as_chunks::<2>().0.iter().zip(block.iter_mut()) {
            *half = f16::from_le_bytes(bytes);
        }
        block.convert_to_f32_slice(out);
    }
}
