//! Codec `mxfp4`: `w = 2^(e - 127) * LEVELS[q]` with 4-bit floats in blocks of 32 (the OCP
//! microscaling format with elements of E2M1 and scales of E8M0).
//!
//! | bytes | |
//! |---|---|
//! | 0 | `e` |
//! | 1..17 | byte `j`: element `j` in the low half, element `j + 16` in the high half |
//!
//! Safetensors files have the same numbers in two tensors, and neighbours in a byte:
//! [`join`].

/// Bytes of a block.
pub const BYTES: usize = 17;

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

/// Turns the two tensors of a matrix in safetensors files, one behind the other, into blocks, in
/// place: first the codes, 16 bytes a block, byte `j` with element `2 j` in its low and element
/// `2 j + 1` in its high half, then a byte a block, `e`. Bytes past whole blocks stay.
pub fn join(bytes: &mut [u8]) {
    let blocks = bytes.len() / BYTES;
    // The blocks grow over the exponents, so these are put aside.
    let exponents = bytes[blocks * 16..blocks * BYTES].to_vec();
    for (index, &exponent) in exponents.iter().enumerate().rev() {
        let mut codes = [0; 16];
        codes.copy_from_slice(&bytes[index * 16..][..16]);
        let half = |element: usize| codes[element / 2] >> (element % 2 * 4) & 15;
        let block = &mut bytes[index * BYTES..][..BYTES];
        block[0] = exponent;
        for (j, byte) in block[1..].iter_mut().enumerate() {
            *byte = half(j) | half(j + 16) << 4;
        }
    }
}
