//! Codec `q4_k`: `w = (d * s) * q - (dmin * m)` with 4-bit `q` in blocks of 256, a 6-bit scale `s`
//! and minimum `m` to 32 elements.
//!
//! | bytes | |
//! |---|---|
//! | 0..2 | `d`, f16 |
//! | 2..4 | `dmin`, f16 |
//! | 4..16 | eight `s` and `m`, see `scales.rs` |
//! | 16..144 | four runs of 32 bytes; run `r` byte `j`: element `64 r + j` in the low half, element `64 r + 32 + j` in the high half |

use half::f16;

use super::k_fit::{fit, pack_low, pack_maps};
use super::{scale_at, scales};

pub(super) const BYTES: usize = 144;

/// `d * s`, `dmin * m` and the product with `q` are exact in f32 (at most 21 significant bits);
/// the difference rounds once.
pub(super) fn decode(block: &[u8; BYTES], out: &mut [f32; 256]) {
    let (d, dmin) = (scale_at(block, 0), scale_at(block, 2));
    let scales = scales::unpack(&block[4..16]);
    let parts = out.as_chunks_mut::<32>().0.iter_mut();
    for (index, (part, (scale, minimum))) in parts.zip(scales).enumerate() {
        let (scale, minimum) = (d * scale, dmin * minimum);
        let (run, shift) = (16 + index / 2 * 32, index % 2 * 4);
        for (&byte, out) in block[run..run + 32].iter().zip(part) {
            *out = scale * f32::from(byte >> shift & 15) - minimum;
        }
    }
}

/// Searched (`k_fit.rs`). Gives what is not finite if a scale is beyond f16.
pub(super) fn encode(values: &[f32; 256], weights: &[f32; 256], out: &mut [u8; BYTES]) -> f16 {
    let block = fit(values, weights, 15.0);
    out[..2].copy_from_slice(&block.d.to_le_bytes());
    out[2..4].copy_from_slice(&block.d_min.to_le_bytes());
    pack_maps(&block.maps, &mut out[4..16]);
    pack_low(&block.codes, &mut out[16..]);
    block.d + block.d_min
}
