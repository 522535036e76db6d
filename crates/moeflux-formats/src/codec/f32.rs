//! Codec `f32`: little-endian IEEE single precision, as it is.

/// Stores `values` in `out`, 4 bytes each.
pub(super) fn encode(values: &[f32], out: &mut [u8]) {
    for (&value, bytes) in values.iter().zip(out.as_chunks_mut::<4>().0) {
        *bytes = value.to_le_bytes();
    }
}

/// Reads `out` from 4 bytes each.
pub(super) fn decode(bytes: &[u8], out: &mut [f32]) {
    for (&bytes, value) in bytes.as_chunks::<4>().0.iter().zip(out) {
        *value = f32::from_le_bytes(bytes);
    }
}
