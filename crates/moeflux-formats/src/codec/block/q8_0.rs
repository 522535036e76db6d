//! Codec `q8_0`: `w = d * q` with signed 8-bit `q` in blocks of 32.
//!
//! | bytes | |
//! |---|---|
//! | 0..2 | `d`, f16 |
//! | 2..34 | `q`, i8, one an element |

use half::f16;

use super::scale_at;

pub(super) const BYTES: usize = 34;

/// `d * q` has at most 18 significant bits: exact in f32.
pub(super) fn decode(block: &[u8; BYTES], out: &mut [f32; 32]) {
    let d = scale_at(block, 0);
    for (&byte, out) in block[2..].iter().zip(out) {
        *out = d * f32::from(byte.cast_signed());
    }
}

/// The largest magnitude becomes 127. Rounding is away from zero at halves and uses the scale
/// before it is rounded to f16, as ggml's reference does.
pub(super) fn encode(values: &[f32; 32], out: &mut [u8; BYTES]) -> f16 {
    let d = values.iter().fold(0.0_f32, |most, x| most.max(x.abs())) / 127.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    for (byte, &value) in out[2..].iter_mut().zip(values) {
        *byte = ((value * inverse).round() as i8).cast_unsigned();
    }
    let scale = f16::from_f32(d);
    out[..2].copy_from_slice(&scale.to_le_bytes());
    scale
}
