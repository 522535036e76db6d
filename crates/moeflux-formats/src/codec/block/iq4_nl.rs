//! Codec `iq4_nl`: `w = d * LEVELS[q]` with 4-bit `q` in blocks of 32.
//!
//! | bytes | |
//! |---|---|
//! | 0..2 | `d`, f16 |
//! | 2..18 | byte `j`: element `j` in the low half, element `j + 16` in the high half |

use half::f16;

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

/// Places beyond the levels' ends that the largest value is tried at, on both sides.
const TRIES: i32 = 8;
/// Rounds of refinement.
const ROUNDS: usize = 4;

/// The scale of least weighted squared error among those that bring the value of largest magnitude
/// near either end of the levels, refined by least squares over the codes that they give.
pub(super) fn encode(values: &[f32; 32], weights: &[f32; 32], out: &mut [u8; BYTES]) -> f16 {
    let largest = |most: f32, &x: &f32| if x.abs() > most.abs() { x } else { most };
    let most = values.iter().fold(0.0, largest);
    let mut best = (f16::ZERO, f32::INFINITY);
    for end in [LEVELS[0], LEVELS[15]] {
        for place in -TRIES..=TRIES {
            let scale = most / (end + place as f32 * 2.0);
            let (_, product, square) = fitted(values, weights, scale);
            // Least squares takes so much off the error, whatever the scale is rounded to.
            let error = -product * product / square;
            if square > 0.0 && error < best.1 {
                best = (f16::from_f32(product / square), error);
            }
        }
    }
    let mut scale = best.0;
    let mut least = fitted(values, weights, scale.to_f32()).0;
    for _ in 0..ROUNDS {
        let (_, product, square) = fitted(values, weights, scale.to_f32());
        let next = f16::from_f32(product / square);
        let error = fitted(values, weights, next.to_f32()).0;
        if !(square > 0.0 && next.is_finite() && error < least) {
            break;
        }
        (scale, least) = (next, error);
    }
    let code = |value: f32| code(value / scale.to_f32()) as u8;
    let (low, high) = values.split_at(16);
    for ((byte, &low), &high) in out[2..].iter_mut().zip(low).zip(high) {
        *byte = code(low) | code(high) << 4;
    }
    out[..2].copy_from_slice(&scale.to_le_bytes());
    scale
}

/// The number of the nearest level, the lower of two; that of zero for what is no number.
fn code(place: f32) -> usize {
    let above = |pair: &&[f32]| place > (pair[0] + pair[1]) * 0.5;
    match place.is_nan() {
        true => 8,
        false => LEVELS.windows(2).filter(above).count(),
    }
}

/// The weighted squared error of a scale with the levels that are then nearest, and the weighted
/// sums of level times value and level squared.
fn fitted(values: &[f32; 32], weights: &[f32; 32], scale: f32) -> (f32, f32, f32) {
    let (mut error, mut product, mut square) = ([0.0; 8], [0.0; 8], [0.0; 8]);
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let blocks = values
        .as_chunks::<8>()
        .0
        .iter()
        .zip(weights.as_chunks::<8>().0);
    for (values, weights) in blocks {
        let mut level = [LEVELS[0]; 8];
        for pair in LEVELS.windows(2) {
            for lane in 0..8 {
                let is_above = values[lane] * inverse > (pair[0] + pair[1]) * 0.5;
                level[lane] = if is_above { pair[1] } else { level[lane] };
            }
        }
        for lane in 0..8 {
            let off = values[lane] - scale * level[lane];
            error[lane] += weights[lane] * (off * off);
            product[lane] += weights[lane] * (values[lane] * level[lane]);
            square[lane] += weights[lane] * (level[lane] * level[lane]);
        }
    }
    (
        error.iter().sum(),
        product.iter().sum(),
        square.iter().sum(),
    )
}
