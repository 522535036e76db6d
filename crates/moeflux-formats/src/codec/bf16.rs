//! Codec `bf16`: the upper 16 bits of an f32, little-endian, rounded to nearest even.

use crate::error::CodecError;

/// Stores `values` in `out`, 2 bytes each. Finite values that would round to infinity cannot be
/// held; infinities and NaN are kept.
pub(super) fn encode(values: &[f32], out: &mut [u8]) -> Result<(), CodecError> {
    let mut overflow = false;
    for (&value, bytes) in values.iter().zip(out.as_chunks_mut::<2>().0) {
        let rounded = round(value);
        overflow |= is_infinite(rounded) & value.is_finite();
        *bytes = rounded.to_le_bytes();
    }
    if overflow {
        let lost = |(_, value): &(usize, &f32)| value.is_finite() && is_infinite(round(**value));
        if let Some((index, &value)) = values.iter().enumerate().find(lost) {
            return Err(CodecError::Value {
                codec: "bf16",
                index,
                value,
            });
        }
    }
    Ok(())
}

/// Reads `out` from 2 bytes each; exact.
pub(super) fn decode(bytes: &[u8], out: &mut [f32]) {
    for (&bytes, value) in bytes.as_chunks::<2>().0.iter().zip(out) {
        *value = widen(u16::from_le_bytes(bytes));
    }
}

/// The nearest bf16, ties to even; NaN stays NaN.
#[must_use]
pub fn round(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = (bits.wrapping_add(0x7FFF + ((bits >> 16) & 1)) >> 16) as u16;
    let quiet_nan = (bits >> 16) as u16 | 0x0040;
    if value.is_nan() { quiet_nan } else { rounded }
}

/// The exact f32 of a bf16.
#[must_use]
pub fn widen(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

fn is_infinite(bits: u16) -> bool {
    bits & 0x7FFF == 0x7F80
}
