//! Codec `q6_k`: `w = (d * s) * (q - 32)` with 6-bit `q` in blocks of 256, a signed 8-bit scale `s`
//! to 16 elements.
//!
//! A block is two halves of 128 elements, half `h` being four parts of 32: part `p` element `j` is
//! element `128 h + 32 p + j`.
//!
//! | bytes | |
//! |---|---|
//! | 0..128 | bits 0..4 of `q`: half `h` byte `j` (of 64): parts 0 and 1 in the low half, 2 and 3 in the high half |
//! | 128..192 | bits 4..6 of `q`: half `h` byte `j` (of 32): part `p` in bits `2 p` and `2 p + 1` |
//! | 192..208 | `s`, i8, one to 16 elements |
//! | 208..210 | `d`, f16 |

use super::scale_at;

pub(super) const BYTES: usize = 210;

/// `d * s` is exact in f32 (at most 18 significant bits) and so is its product with `q - 32` (at
/// most 23).
pub(super) fn decode(block: &[u8; BYTES], out: &mut [f32; 256]) {
    let d = scale_at(block, 208);
    let (low, rest) = block.split_at(128);
    let (high, scales) = rest.split_at(64);
    for (group, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = d * f32::from(scales[group].cast_signed());
        let (half, part, side) = (group / 8, group / 2 % 4, group % 2);
        let low = &low[64 * half + 32 * (part % 2) + 16 * side..];
        let high = &high[32 * half + 16 * side..];
        for ((&low, &high), out) in low.iter().zip(high).zip(out) {
            let code = low >> (part / 2 * 4) & 15 | (high >> (2 * part) & 3) << 4;
            *out = scale * (f32::from(code) - 32.0);
        }
    }
}
