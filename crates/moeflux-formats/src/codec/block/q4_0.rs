//! Codec `q4_0`: `w = d * (q - 8)` with 4-bit `q` in blocks of 32.
//!
//! | bytes | |
//! |---|---|
//! | 0..2 | `d`, f16 |
//! | 2..18 | byte `j`: element `j` in the low half, element `j + 16` in the high half |

use half::f16;

use super::scale_at;

pub(super) const BYTES: usize = 18;

/// `d * (q - 8)` has at most 15 significant bits: exact in f32.
pub(super) fn decode(block: &[u8; BYTES], out: &mut [f32; 32]) {
    let d = scale_at(block, 0);
    let (low, high) = out.split_at_mut(16);
    for ((&byte, low), high) in block[2..].iter().zip(low).zip(high) {
        *low = d * (f32::from(byte & 15) - 8.0);
        *high = d * (f32::from(byte >> 4) - 8.0);
    }
}

/// The element of largest magnitude becomes -8; the first of equals decides. Rounding is upward at
/// halves and uses the scale before it is rounded to f16, as ggml's reference does.
pub(super) fn encode(values: &[f32; 32], out: &mut [u8; BYTES]) -> f16 {
    let largest = |most: f32, &x: &f32| if x.abs() > most.abs() { x } else { most };
    let d = values.iter().fold(0.0, largest) / -8.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    let code = |value: f32| ((value * inverse + 8.5) as u8).min(15);
    let (low, high) = values.split_at(16);
    for ((byte, &low), &high) in out[2..].iter_mut().zip(low).zip(high) {
        *byte = code(low) | code(high) << 4;
    }
    let scale = f16::from_f32(d);
    out[..2].copy_from_slice(&scale.to_le_bytes());
    scale
}
