//! What the codecs of 4-bit floats (a sign, two bits of exponent, one of mantissa) share.
//!
//! In blocks of 32, byte `j` of a block's codes has element `j` in its low and element `j + 16` in
//! its high half. Safetensors files have neighbours in a byte, and the scales in a tensor of their
//! own: [`join`].

/// What the sixteen codes stand for, doubled: the sign is the highest bit.
const DOUBLED: [f32; 16] = [
    0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, -0.0, -1.0, -2.0, -3.0, -4.0, -6.0, -8.0, -12.0,
];

/// Elements of a block.
pub const BLOCK: usize = 32;

/// Bytes of a block's codes.
pub const CODES: usize = BLOCK / 2;

/// The power of two that a byte of E8M0 stands for, `2^(e - 127)`; infinite for 255, which stands
/// for no number.
#[must_use]
pub fn power(exponent: u8) -> f32 {
    // The least one is subnormal, and the bits below the exponent's say so.
    f32::from_bits((u32::from(exponent) << 23).max(1 << 22))
}

/// Decodes `codes`, 16 bytes, by half of the scale of element `j`: one rounding each.
pub(super) fn decode(codes: &[u8], half_scale: impl Fn(usize) -> f32, out: &mut [f32]) {
    let (low, high) = out.split_at_mut(CODES);
    for (j, ((&byte, low), high)) in codes.iter().zip(low).zip(high).enumerate() {
        *low = half_scale(j) * DOUBLED[usize::from(byte & 15)];
        *high = half_scale(j + CODES) * DOUBLED[usize::from(byte >> 4)];
    }
}

/// Turns the two tensors of a matrix in safetensors files, one behind the other, into blocks, in
/// place: first the codes, 16 bytes a block, byte `j` with element `2 j` in its low and element
/// `2 j + 1` in its high half, then the `scales` bytes of each block (at most 2), which a block
/// begins with. Bytes past whole blocks stay.
pub fn join(bytes: &mut [u8], scales: usize) {
    let block_bytes = CODES + scales;
    let blocks = bytes.len() / block_bytes;
    // The blocks grow over the scales, so these are put aside.
    let aside = bytes[blocks * CODES..blocks * block_bytes].to_vec();
    for index in (0..blocks).rev() {
        let mut codes = [0; CODES];
        codes.copy_from_slice(&bytes[index * CODES..][..CODES]);
        let half = |element: usize| codes[element / 2] >> (element % 2 * 4) & 15;
        let (first, out) = bytes[index * block_bytes..][..block_bytes].split_at_mut(scales);
        first.copy_from_slice(&aside[index * scales..][..scales]);
        for (j, byte) in out.iter_mut().enumerate() {
            *byte = half(j) | half(j + CODES) << 4;
        }
    }
}
