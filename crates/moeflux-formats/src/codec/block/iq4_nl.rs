//! Codec `iq4_nl`: `w = d * LEVELS[q]` with 4-bit `q` in blocks of 32.
//!
//! | bytes | |
//! |---|---|
//! | 0..2 | `d`, f16 |
//! | 2..18 | byte `j`: element `j` in the low half, element `j + 16` in the high half |

use super::scale_at;

pub(super) const BYTES: usize = 18;

/// What the sixteen codes stand for: closer together where weights are frequent.
pub(super) const LEVELS: [f32; 16] = [
    -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0,
    89.0, 113.0,
];

/// Exact in f32 (at most 18 significant bits).
pub(super) fn decode(block: &[u8; BYTES], out: &mut [f32; 32]) {
    let d = scale_at(block, 0);
    let (low, high) = out.split_at_mut(16);
    for ((&byte, low), high) in block[2..].iter().zip(low).zip(high) {
        *low = d * LEVELS[usize::from(byte & 15)];
        *high = d * LEVELS[usize::from(byte >> 4)];
    }
}
