//! Codec `q5_1`: `w = d * q + m` with 5-bit `q` in blocks of 32.
//!
//! | bytes | |
//! |---|---|
//! | 0..2 | `d`, f16 |
//! | 2..4 | `m`, f16 |
//! | 4..24 | `q`, as in Q5_0 |

use super::q5_0::code;
use super::scale_at;

pub(super) const BYTES: usize = 24;

/// The product is exact in f32 (at most 16 significant bits); the sum rounds once.
pub(super) fn decode(block: &[u8; BYTES], out: &mut [f32; 32]) {
    let (d, m) = (scale_at(block, 0), scale_at(block, 2));
    for (element, out) in out.iter_mut().enumerate() {
        *out = d * f32::from(code(&block[4..], element)) + m;
    }
}
