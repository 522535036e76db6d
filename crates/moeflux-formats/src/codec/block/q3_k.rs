//! Codec `q3_k`: `w = (d * (s - 32)) * (q - 4)` with 3-bit `q` in blocks of 256, a 6-bit scale `s`
//! to 16 elements.
//!
//! | bytes | |
//! |---|---|
//! | 0..32 | bit 2 of `q`: byte `j` bit `i` is that of element `32 i + j` |
//! | 32..96 | bits 0..2 of `q`, as in Q2_K |
//! | 96..104 | bits 0..4 of `s`: byte `i`: scale `i` in the low half, scale `i + 8` in the high half |
//! | 104..108 | bits 4..6 of `s`: byte `i`: scale `i + 4 j` in bits `2 j` and `2 j + 1` |
//! | 108..110 | `d`, f16 |

use super::scale_at;

pub(super) const BYTES: usize = 110;

/// Exact in f32 (at most 19 significant bits).
pub(super) fn decode(block: &[u8; BYTES], out: &mut [f32; 256]) {
    let d = scale_at(block, 108);
    for (group, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let low = block[96 + group % 8] >> (group / 8 * 4) & 15;
        let high = block[104 + group % 4] >> (group / 4 * 2) & 3;
        let scale = d * (f32::from(low | high << 4) - 32.0);
        let (half, part, side) = (group / 8, group / 2 % 4, group % 2);
        let bytes = &block[32 + 32 * half + 16 * side..];
        for ((&byte, &above), out) in bytes.iter().zip(&block[16 * side..]).zip(out) {
            let code = byte >> (2 * part) & 3 | (above >> (group / 2) & 1) << 2;
            *out = scale * (f32::from(code) - 4.0);
        }
    }
}
