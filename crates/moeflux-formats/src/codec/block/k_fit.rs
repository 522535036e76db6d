//! The choice of scales, minima and codes of a K block of eight groups of 32: Q4_K and Q5_K.
//!
//! Each group gets the line that a search finds best, with a base that is not positive. The largest
//! step and the lowest base then set the block's two f16, by which steps and bases become 6-bit
//! numbers: of each group those near its line are tried, with the codes that they give. At last the
//! two f16 are fitted to all codes (least squares), and the 6-bit numbers chosen again, as long as
//! the block's error falls.

use half::f16;

use super::super::fit::{CodeSums, Group, Line, Moments};

/// Groups of a block.
const GROUPS: usize = 8;
/// The largest 6-bit number.
const MOST: f32 = 63.0;
/// Rounds of fitting the two f16.
const ROUNDS: usize = 3;

/// A block's numbers.
#[derive(Clone)]
pub(super) struct Block {
    pub d: f16,
    pub d_min: f16,
    /// Scale and minimum of each group.
    pub maps: [(u8, u8); GROUPS],
    /// Integers in f32.
    pub codes: [[f32; 32]; GROUPS],
    error: f32,
}

/// Fits a block with codes up to `levels`. All values are finite.
pub(super) fn fit(values: &[f32; 256], weights: &[f32; 256], levels: f32) -> Block {
    let groups = values.as_chunks::<32>().0.iter().zip(weights.as_chunks().0);
    let groups = groups.map(|(values, weights)| Group { values, weights });
    let groups: Vec<Group<'_, 32>> = groups.collect();
    let moments: Vec<Moments> = groups.iter().map(Group::moments).collect();
    let lines = groups.iter().zip(&moments);
    let lines: Vec<Line> = lines.map(|(g, m)| search(g, *m, levels)).collect();
    let most = |part: fn(&Line) -> f32| lines.iter().map(part).fold(0.0, f32::max);
    let d = f16::from_f32(most(|line| line.step) / MOST);
    let d_min = f16::from_f32(most(|line| -line.base) / MOST);
    let mut best = choose(&groups, &moments, &lines, (d, d_min), levels);
    for _ in 0..ROUNDS {
        let Some(scales) = best.fitted_scales(&groups, &moments) else {
            break;
        };
        let (d, d_min) = (best.d.to_f32(), best.d_min.to_f32());
        let line = |&(scale, minimum): &(u8, u8)| Line {
            step: d * f32::from(scale),
            base: -d_min * f32::from(minimum),
        };
        let lines: Vec<Line> = best.maps.iter().map(line).collect();
        let next = choose(&groups, &moments, &lines, scales, levels);
        if next.error < best.error {
            best = next;
        } else {
            break;
        }
    }
    best
}

/// The best line of those tried for a group; its step is not negative, its base not positive.
fn search(group: &Group<'_, 32>, moments: Moments, levels: f32) -> Line {
    let (least, most) = group.range().unwrap_or((0.0, 0.0));
    let least = least.min(0.0);
    let step = (most.max(least) - least) / levels;
    let range = Line { step, base: least };
    if step <= 0.0 || !step.is_normal() {
        return range;
    }
    let mut found = (range, group.codes(range, levels).1);
    for index in 0..=6 {
        // Levels more or fewer than there are that the range takes.
        let stretch = index as f32 * 0.5 - 1.0;
        let step = step * levels / (levels + stretch);
        // What is cut off is above, on both sides, or below.
        for share in [0.0, 0.5, 1.0] {
            let base = (least + share * stretch * step).min(0.0);
            let sums = group.try_line(Line { step, base }, levels);
            if let Some((line, error)) = fitted(sums, moments)
                && error < found.1
            {
                found = (line, error);
            }
        }
    }
    found.0
}

/// The least-squares line whose base is not positive.
fn fitted(sums: CodeSums, moments: Moments) -> Option<(Line, f32)> {
    match sums.line(moments) {
        Some((line, error)) if line.base <= 0.0 => Some((line, error)),
        _ => sums.line_through_zero(moments),
    }
}

/// 6-bit numbers and codes near `lines`, by the two f16.
fn choose(
    groups: &[Group<'_, 32>],
    moments: &[Moments],
    lines: &[Line],
    (d, d_min): (f16, f16),
    levels: f32,
) -> Block {
    let mut block = Block {
        d,
        d_min,
        maps: [(0, 0); GROUPS],
        codes: [[0.0; 32]; GROUPS],
        error: 0.0,
    };
    let (d, d_min) = (d.to_f32(), d_min.to_f32());
    let number = |value: f32, unit: f32| match unit > 0.0 {
        true => (value / unit).round_ties_even().clamp(0.0, MOST),
        false => 0.0,
    };
    for (index, (group, line)) in groups.iter().zip(lines).enumerate() {
        let mut least = f32::INFINITY;
        let nearest = number(line.step, d);
        for scale in [nearest, nearest - 1.0, nearest + 1.0] {
            if !(0.0..=MOST).contains(&scale) {
                continue;
            }
            let step = d * scale;
            let sums = group.try_line(Line { step, ..*line }, levels);
            // The best base for this step.
            let base = match scale > 0.0 {
                true => (moments[index].value - step * sums.code) / moments[index].one,
                false => moments[index].value / moments[index].one,
            };
            for base in [base, line.base] {
                let minimum = number(-base, d_min);
                let base = -(d_min * minimum);
                let (codes, error) = group.codes(Line { step, base }, levels);
                if error < least {
                    least = error;
                    block.maps[index] = (scale as u8, minimum as u8);
                    block.codes[index] = codes;
                }
            }
        }
        block.error += least;
    }
    block
}

impl Block {
    /// The two f16 of least squared error with these 6-bit numbers and codes, if they can be told.
    fn fitted_scales(&self, groups: &[Group<'_, 32>], moments: &[Moments]) -> Option<(f16, f16)> {
        // A weight is d * a - d_min * b.
        let (mut aa, mut ab, mut bb, mut xa, mut xb) = (0.0, 0.0, 0.0, 0.0, 0.0);
        let parts = groups.iter().zip(moments).zip(&self.codes).zip(&self.maps);
        for (((group, moments), codes), &(scale, minimum)) in parts {
            let sums = group.with_codes(codes);
            let (scale, minimum) = (f32::from(scale), f32::from(minimum));
            aa += scale * scale * sums.square;
            ab += scale * minimum * sums.code;
            bb += minimum * minimum * moments.one;
            xa += scale * sums.product;
            xb += minimum * moments.value;
        }
        let determinant = aa * bb - ab * ab;
        let (d, d_min) = match bb > 0.0 {
            true => {
                let d = (xa * bb - xb * ab) / determinant;
                (d, (d * ab - xb) / bb)
            }
            false => (xa / aa, 0.0),
        };
        let usable = |x: f32| x >= 0.0 && f16::from_f32(x).is_finite();
        let both = usable(d) && usable(d_min);
        both.then(|| (f16::from_f32(d), f16::from_f32(d_min)))
    }
}

/// Eight pairs in 12 bytes, as `scales.rs` reads them.
pub(super) fn pack_maps(maps: &[(u8, u8); GROUPS], out: &mut [u8]) {
    for index in 0..4 {
        let ((low_scale, low_minimum), (scale, minimum)) = (maps[index], maps[index + 4]);
        out[index] = low_scale | scale >> 4 << 6;
        out[index + 4] = low_minimum | minimum >> 4 << 6;
        out[index + 8] = scale & 15 | minimum << 4;
    }
}

/// The low four bits of the codes in 128 bytes, as Q4_K and Q5_K have them.
pub(super) fn pack_low(codes: &[[f32; 32]; GROUPS], out: &mut [u8]) {
    for (run, out) in out.chunks_exact_mut(32).enumerate() {
        for (place, byte) in out.iter_mut().enumerate() {
            let low = |group: usize| codes[group][place] as u8 & 15;
            *byte = low(2 * run) | low(2 * run + 1) << 4;
        }
    }
}
