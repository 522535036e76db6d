//! Codec `mxfp4`: `w = 2^(e - 127) * LEVELS[q]` with 4-bit floats in blocks of 32 (the OCP
//! microscaling format with elements of E2M1 and scales of E8M0).
//!
//! | bytes | |
//! |---|---|
//! | 0 | `e` |
//! | 1..17 | byte `j`: element `j` in the low half, element `j + 16` in the high half |
//!
//! Safetensors files have the same numbers in two tensors, and neighbours in a byte:
//! [`from_parts`].

pub(super) const BYTES: usize = 17;

/// Elements of a block.
pub const ELEMENTS: usize = 32;

/// What the sixteen codes stand for, doubled: the sign is the highest bit.
const DOUBLED: [f32; 16] = [
    0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, -0.0, -1.0, -2.0, -3.0, -4.0, -6.0, -8.0, -12.0,
];

/// `2^(e - 128)`, the scale of the doubled levels; infinite for 255, which stands for no number.
fn half_scale(exponent: u8) -> f32 {
    // The least one is subnormal, and the bits below the exponent's say so.
    f32::from_bits((u32::from(exponent) << 23).max(1 << 22)) * 0.5
}

/// Exact in f32.
pub(super) fn decode(block: &[u8; BYTES], out: &mut [f32; 32]) {
    let scale = half_scale(block[0]);
    let (low, high) = out.split_at_mut(16);
    for ((&byte, low), high) in block[1..].iter().zip(low).zip(high) {
        *low = scale * DOUBLED[usize::from(byte & 15)];
        *high = scale * DOUBLED[usize::from(byte >> 4)];
    }
}

/// Makes blocks of the tensors of safetensors files: `codes` has 16 bytes a block, byte `j` with
/// element `2 j` in its low and element `2 j + 1` in its high half; `exponents` a byte a block.
/// Blocks past the shortest of the three are left as they are.
pub fn from_parts(codes: &[u8], exponents: &[u8], blocks: &mut [u8]) {
    let codes = codes.as_chunks::<16>().0;
    let blocks = blocks.as_chunks_mut::<BYTES>().0;
    for ((block, codes), &exponent) in blocks.iter_mut().zip(codes).zip(exponents) {
        block[0] = exponent;
        for (j, byte) in block[1..].iter_mut().enumerate() {
            let half = |element: usize| codes[element / 2] >> (element % 2 * 4) & 15;
            *byte = half(j) | half(j + 16) << 4;
        }
    }
}
