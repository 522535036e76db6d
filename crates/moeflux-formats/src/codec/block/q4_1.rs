//! Codec `q4_1`: `w = d * q + m` with 4-bit `q` in blocks of 32.
//!
//! | bytes | |
//! |---|---|
//! | 0..2 | `d`, f16 |
//! | 2..4 | `m`, f16 |
//! | 4..20 | byte `j`: element `j` in the low half, element `j + 16` in the high half |

use super::scale_at;

pub(super) const BYTES: usize = 20;

/// The product is exact in f32 (at most 15 significant bits); the sum rounds once.
pub(super) fn decode(block: &[u8; BYTES], out: &mut [f32; 32]) {
    let (d, m) = (scale_at(block, 0), scale_at(block, 2));
    let (low, high) = out.split_at_mut(16);
    for ((&byte, low), high) in block[4..].iter().zip(low).zip(high) {
        *low = d * f32::from(byte & 15) + m;
        *high = d * f32::from(byte >> 4) + m;
    }
}
