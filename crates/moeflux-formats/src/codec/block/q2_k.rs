//! Codec `q2_k`: `w = (d * s) * q - (dmin * m)` with 2-bit `q` in blocks of 256, a 4-bit scale `s`
//! and minimum `m` to 16 elements.
//!
//! | bytes | |
//! |---|---|
//! | 0..16 | `s` in the low half, `m` in the high half of a byte |
//! | 16..80 | two halves of 32 bytes; half `h` byte `j`: element `128 h + 32 p + j` in bits `2 p` and `2 p + 1` |
//! | 80..82 | `d`, f16 |
//! | 82..84 | `dmin`, f16 |

use super::scale_at;

pub(super) const BYTES: usize = 84;

/// Products are exact in f32 (at most 17 significant bits); the difference rounds once.
pub(super) fn decode(block: &[u8; BYTES], out: &mut [f32; 256]) {
    let (d, dmin) = (scale_at(block, 80), scale_at(block, 82));
    for (group, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scales = block[group];
        let (scale, minimum) = (d * f32::from(scales & 15), dmin * f32::from(scales >> 4));
        let (half, part, side) = (group / 8, group / 2 % 4, group % 2);
        let bytes = &block[16 + 32 * half + 16 * side..];
        for (&byte, out) in bytes.iter().zip(out) {
            *out = scale * f32::from(byte >> (2 * part) & 3) - minimum;
        }
    }
}
