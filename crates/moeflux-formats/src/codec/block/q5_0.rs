//! Codec `q5_0`: `w = d * (q - 16)` with 5-bit `q` in blocks of 32.
//!
//! | bytes | |
//! |---|---|
//! | 0..2 | `d`, f16 |
//! | 2..6 | bit 4 of `q`: bit `j` of the little-endian u32 is that of element `j` |
//! | 6..22 | bits 0..4: byte `j`: element `j` in the low half, element `j + 16` in the high half |

use super::scale_at;

pub(super) const BYTES: usize = 22;

/// Exact in f32 (at most 16 significant bits).
pub(super) fn decode(block: &[u8; BYTES], out: &mut [f32; 32]) {
    let d = scale_at(block, 0);
    for (element, out) in out.iter_mut().enumerate() {
        *out = d * (f32::from(code(&block[2..], element)) - 16.0);
    }
}

/// The 5 bits of an element: `packed` begins with those of bit 4.
pub(super) fn code(packed: &[u8], element: usize) -> u8 {
    let low = packed[4 + element % 16] >> (element / 16 * 4) & 15;
    low | (packed[element / 8] >> (element % 8) & 1) << 4
}
