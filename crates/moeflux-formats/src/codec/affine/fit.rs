//! The choice of a group's scale and bias.
//!
//! Up to three fits are tried and the one with the least squared error is kept:
//! 1. *range*: bias = smallest value, scale = range / levels;
//! 2. *anchored*: as MLX does, the value of largest magnitude becomes the bias, and the scale is
//!    adjusted so that zero is a multiple of it from there (the scale may be negative);
//! 3. *refined*: the least-squares line through the values over the codes of the better of the two.
//!
//! Scale and bias are rounded to bf16 before anything else uses them, so that codes and errors are
//! those of the values stored. On normally distributed weights in groups of 64, this has less
//! squared error than (2) alone: 17 % less at 2 bits, 12 % at 4, 6 % at 8. Sums run in 16 lanes, so
//! that the compiler can vectorize them.

use super::bf16;

const LANES: usize = 16;

/// A scale and a bias that bf16 holds exactly.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fit {
    pub scale: f32,
    pub bias: f32,
}

impl Fit {
    fn rounded(scale: f32, bias: f32) -> Self {
        Self {
            scale: round_bf16(scale),
            bias: round_bf16(bias),
        }
    }

    /// The value of an integer code.
    #[inline]
    pub(super) fn value(self, code: f32) -> f32 {
        code * self.scale + self.bias
    }

    /// The nearest codes of a group, ties to even, and the sum of squared differences between the
    /// group and what they stand for.
    fn codes<const GROUP: usize>(self, group: &[f32; GROUP], levels: f32) -> ([f32; GROUP], f32) {
        let mut codes = [0.0; GROUP];
        let mut squared = [0.0; LANES];
        let blocks = group
            .as_chunks::<LANES>()
            .0
            .iter()
            .zip(codes.as_chunks_mut::<LANES>().0);
        for (values, codes) in blocks {
            for lane in 0..LANES {
                let exact = (values[lane] - self.bias) / self.scale;
                // A value below zero or NaN (0 / 0) gives 0. Adding and subtracting 2^23 rounds.
                let above = if exact > 0.0 { exact } else { 0.0 };
                let clamped = if above < levels { above } else { levels };
                codes[lane] = (clamped + 8_388_608.0) - 8_388_608.0;
                let error = values[lane] - self.value(codes[lane]);
                squared[lane] += error * error;
            }
        }
        (codes, reduce(squared, |a, b| a + b))
    }
}

/// The best fit and its codes, or `None` if the group holds values that are not finite or too large
/// for bf16.
pub(super) fn fit_group<const GROUP: usize>(
    group: &[f32; GROUP],
    levels: f32,
) -> Option<(Fit, [f32; GROUP])> {
    let (least, most) = finite_range(group)?;
    // Divided before the subtraction, which could overflow. Zero if all values are equal.
    let step = most / levels - least / levels;
    let range = Fit::rounded(step, least);
    if !(range.bias.is_finite() && (range.scale * levels).is_finite()) {
        return None;
    }
    let mut best = range;
    let (mut best_codes, mut least_error) = range.codes(group, levels);
    for attempt in 0..2 {
        let next = if attempt == 0 {
            anchored(least, most, step)
        } else {
            refined(group, &best_codes)
        };
        let is_usable = |fit: &Fit| fit.bias.is_finite() && (fit.scale * levels).is_normal();
        let Some(next) = next.filter(is_usable) else {
            continue;
        };
        let (codes, error) = next.codes(group, levels);
        if error < least_error {
            (best, best_codes, least_error) = (next, codes, error);
        }
    }
    Some((best, best_codes))
}

/// Smallest and largest value, or `None` if one is infinite or NaN.
fn finite_range<const GROUP: usize>(group: &[f32; GROUP]) -> Option<(f32, f32)> {
    let mut least = [f32::INFINITY; LANES];
    let mut most = [f32::NEG_INFINITY; LANES];
    let mut poison = [0.0; LANES];
    for values in group.as_chunks::<LANES>().0 {
        for lane in 0..LANES {
            let value = values[lane];
            least[lane] = if value < least[lane] {
                value
            } else {
                least[lane]
            };
            most[lane] = if value > most[lane] {
                value
            } else {
                most[lane]
            };
            poison[lane] += value * 0.0; // NaN for what is not finite
        }
    }
    if reduce(poison, |a, b| a + b) != 0.0 {
        return None;
    }
    let least = reduce(least, |a, b| if b < a { b } else { a });
    Some((least, reduce(most, |a, b| if b > a { b } else { a })))
}

fn anchored(least: f32, most: f32, step: f32) -> Option<Fit> {
    let (edge, scale) = if least.abs() > most.abs() {
        (least, step)
    } else {
        (most, -step)
    };
    let steps_to_zero = (edge / scale).round();
    (steps_to_zero != 0.0).then(|| Fit::rounded(edge / steps_to_zero, edge))
}

fn refined<const GROUP: usize>(group: &[f32; GROUP], codes: &[f32; GROUP]) -> Option<Fit> {
    let count = GROUP as f32;
    let mean_code = lane_sum(codes, |code| code) / count;
    let mean_value = lane_sum(group, |value| value) / count;
    let variance = lane_sum(codes, |code| (code - mean_code) * (code - mean_code));
    let mut lanes = [0.0; LANES];
    for (values, codes) in group.as_chunks::<LANES>().0.iter().zip(codes.as_chunks().0) {
        for lane in 0..LANES {
            let codes: &[f32; LANES] = codes;
            lanes[lane] += (values[lane] - mean_value) * (codes[lane] - mean_code);
        }
    }
    let covariance = reduce(lanes, |a, b| a + b);
    let scale = round_bf16(covariance / variance);
    (variance > 0.0).then(|| Fit::rounded(scale, mean_value - scale * mean_code))
}

#[inline]
fn lane_sum<const GROUP: usize>(values: &[f32; GROUP], term: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    for values in values.as_chunks::<LANES>().0 {
        for lane in 0..LANES {
            lanes[lane] += term(values[lane]);
        }
    }
    reduce(lanes, |a, b| a + b)
}

/// Halves the lanes until one is left: independent operations, unlike a running sum.
#[inline]
fn reduce(mut lanes: [f32; LANES], combine: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for lane in 0..width {
            lanes[lane] = combine(lanes[lane], lanes[lane + width]);
        }
    }
    lanes[0]
}

fn round_bf16(value: f32) -> f32 {
    bf16::widen(bf16::round(value))
}
