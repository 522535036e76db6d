//! Codec `mxfp4`: `w = 2^(e - 127) * LEVELS[q]` with 4-bit floats in blocks of 32 (the OCP
//! microscaling format with elements of E2M1 and scales of E8M0).
//!
//! | bytes | |
//! |---|---|
//! | 0 | `e` |
//! | 1..17 | byte `j`: element `j` in the low half, element `j + 16` in the high half |
//!
//! Safetensors files have the same numbers in two tensors: [`join`](e2m1::join).

use super::super::e2m1;

/// Bytes of a block.
pub const BYTES: usize = SCALES + e2m1::CODES;

/// Elements of a block.
pub const ELEMENTS: usize = e2m1::BLOCK;

/// Bytes of a block's scale.
pub const SCALES: usize = 1;

/// Exact in f32.
pub(super) fn decode(block: &[u8; BYTES], out: &mut [f32; ELEMENTS]) {
    let scale = e2m1::power(block[0]) * 0.5;
    e2m1::decode(&block[SCALES..], |_| scale, out);
}
