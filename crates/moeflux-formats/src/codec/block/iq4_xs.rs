//! Codec `iq4_xs`: `w = (d * (s - 32)) * LEVELS[q]` with 4-bit `q` in blocks of 256, a 6-bit scale
//! `s` to 32 elements, and the levels of IQ4_NL.
//!
//! | bytes | |
//! |---|---|
//! | 0..2 | `d`, f16 |
//! | 2..4 | bits 4..6 of `s`: scale `i` in bits `2 i` and `2 i + 1` of the little-endian u16 |
//! | 4..8 | bits 0..4 of `s`: byte `i`: scale `2 i` in the low half, scale `2 i + 1` in the high half |
//! | 8..136 | eight runs of 16 bytes, each as in IQ4_NL |

use super::iq4_nl::LEVELS;
use super::scale_at;

pub(super) const BYTES: usize = 136;

/// `d * (s - 32)` is exact in f32 (at most 17 significant bits), and so is its product with a
/// level (at most 24).
pub(super) fn decode(block: &[u8; BYTES], out: &mut [f32; 256]) {
    let d = scale_at(block, 0);
    let high_bits = u16::from_le_bytes([block[2], block[3]]);
    for (group, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let low = block[4 + group / 2] >> (group % 2 * 4) & 15;
        let high = (high_bits >> (2 * group) & 3) as u8;
        let scale = d * (f32::from(low | high << 4) - 32.0);
        let (first, second) = out.split_at_mut(16);
        let bytes = &block[8 + 16 * group..];
        for ((&byte, first), second) in bytes.iter().zip(first).zip(second) {
            *first = scale * LEVELS[usize::from(byte & 15)];
            *second = scale * LEVELS[usize::from(byte >> 4)];
        }
    }
}
