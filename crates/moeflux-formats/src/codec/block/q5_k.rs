//! Codec `q5_k`: `w = (d * s) * q - (dmin * m)` with 5-bit `q` in blocks of 256, a 6-bit scale `s`
//! and minimum `m` to 32 elements.
//!
//! | bytes | |
//! |---|---|
//! | 0..2 | `d`, f16 |
//! | 2..4 | `dmin`, f16 |
//! | 4..16 | eight `s` and `m`, see `scales.rs` |
//! | 16..48 | bit 4 of `q`: byte `j` bit `i` is that of element `32 i + j` |
//! | 48..176 | bits 0..4 of `q`, as in Q4_K |

use half::f16;

use super::k_fit::{fit, pack_low, pack_maps};
use super::{scale_at, scales};

pub(super) const BYTES: usize = 176;

/// `d * s`, `dmin * m` and the product with `q` are exact in f32 (at most 22 significant bits);
/// the difference rounds once.
pub(super) fn decode(block: &[u8; BYTES], out: &mut [f32; 256]) {
    let (d, dmin) = (scale_at(block, 0), scale_at(block, 2));
    let scales = scales::unpack(&block[4..16]);
    let high_bits = &block[16..48];
    let parts = out.as_chunks_mut::<32>().0.iter_mut();
    for (index, (part, (scale, minimum))) in parts.zip(scales).enumerate() {
        let (scale, minimum) = (d * scale, dmin * minimum);
        let (run, shift) = (48 + index / 2 * 32, index % 2 * 4);
        for ((&low, &high), out) in block[run..run + 32].iter().zip(high_bits).zip(part) {
            let code = low >> shift & 15 | (high >> index & 1) << 4;
            *out = scale * f32::from(code) - minimum;
        }
    }
}

/// Searched (`k_fit.rs`). Gives what is not finite if a scale is beyond f16.
pub(super) fn encode(values: &[f32; 256], weights: &[f32; 256], out: &mut [u8; BYTES]) -> f16 {
    let block = fit(values, weights, 31.0);
    out[..2].copy_from_slice(&block.d.to_le_bytes());
    out[2..4].copy_from_slice(&block.d_min.to_le_bytes());
    pack_maps(&block.maps, &mut out[4..16]);
    for (place, byte) in out[16..48].iter_mut().enumerate() {
        let high = |group: usize| (block.codes[group][place] as u8 >> 4) << group;
        *byte = (0..8).map(high).sum();
    }
    pack_low(&block.codes, &mut out[48..]);
    block.d + block.d_min
}
