//! The choice of a group's scale and bias.
//!
//! Where lines are begun from, each an own kind of rounding:
//! 1. *range*: bias = smallest value, scale = range / levels;
//! 2. *anchored*: as MLX does, the value of largest magnitude becomes the bias, and the scale is
//!    adjusted so that zero is a multiple of it from there (the scale may be negative);
//! 3. *searched*: of lines that leave more or fewer levels to the range, cutting it off below or
//!    above, the one whose codes have the least-squares line of least error.
//!
//! The best is then refined: its codes' least-squares line, and that one's codes, in turn. Scale
//! and bias are rounded to bf16 before an error is taken, and the least error of all wins, so that
//! it is never more than that of (1) or (2) alone.

use super::super::fit::{Group, Line};
use super::bf16;

/// Rounds of refinement; most groups are settled before.
const ROUNDS: usize = 4;

/// A group's line with its codes.
struct Fitted<const GROUP: usize> {
    line: Line,
    codes: [f32; GROUP],
    error: f32,
}

/// The best line (both numbers exact in bf16) and its codes, or `None` if the group holds values
/// that are not finite or too large for bf16.
pub(super) fn fit_group<const GROUP: usize>(
    group: Group<'_, GROUP>,
    levels: f32,
) -> Option<(Line, [f32; GROUP])> {
    let (least, most) = group.range()?;
    // Divided before the subtraction, which could overflow. Zero if all values are equal.
    let step = most / levels - least / levels;
    let range = rounded(step, least);
    if !(range.base.is_finite() && (range.step * levels).is_finite()) {
        return None;
    }
    let (codes, error) = group.codes(range, levels);
    let mut best = Fitted {
        line: range,
        codes,
        error,
    };
    if let Some(line) = anchored(least, most, step) {
        best.consider(&group, line, levels);
    }
    if error > 0.0 {
        search(&group, &mut best, (least, step), levels);
    }
    Some((best.line, best.codes))
}

impl<const GROUP: usize> Fitted<GROUP> {
    /// Takes a line if it is better; says whether it is.
    fn consider(&mut self, group: &Group<'_, GROUP>, line: Line, levels: f32) -> bool {
        if !(line.base.is_finite() && (line.step * levels).is_normal()) {
            return false;
        }
        let (codes, error) = group.codes(line, levels);
        let is_better = error < self.error;
        if is_better {
            *self = Fitted { line, codes, error };
        }
        is_better
    }
}

/// Levels more or fewer than there are that the range of a group's values may take, by bits:
/// first, last and the distance between.
fn stretches(levels: f32) -> (f32, f32, f32) {
    match levels {
        3.0 => (-0.4, 2.6, 0.25),
        7.0 => (-0.8, 3.2, 0.4),
        15.0 => (-1.0, 2.5, 0.5),
        _ => (-0.75, 0.75, 0.5),
    }
}

/// Tries lines of other steps and bases than the range's, and refines the best.
fn search<const GROUP: usize>(
    group: &Group<'_, GROUP>,
    best: &mut Fitted<GROUP>,
    (least, step): (f32, f32),
    levels: f32,
) {
    // In steps of the range, so that sums are exact enough whatever the values' size and offset.
    let values = group.values.map(|value| (value - least) / step);
    let unit = Group {
        values: &values,
        weights: group.weights,
    };
    let moments = unit.moments();
    if let Some((line, _)) = searched(&unit, levels) {
        let base = least + step * line.base;
        best.consider(group, rounded(step * line.step, base), levels);
    }
    let middle = moments.value / moments.one;
    for _ in 0..ROUNDS {
        let Some((line, _)) = unit.with_codes(&best.codes).line(moments) else {
            return;
        };
        let code = (middle - line.base) / line.step;
        let middle = least + step * middle;
        let mut is_better = false;
        for step in beside(step * line.step) {
            // The bias makes up for what rounding does to the scale.
            is_better |= best.consider(group, rounded(step, middle - step * code), levels);
        }
        if !is_better {
            return;
        }
    }
}

/// The best line for values from 0 to `levels` among those that leave more or fewer levels to them.
fn searched<const GROUP: usize>(unit: &Group<'_, GROUP>, levels: f32) -> Option<(Line, f32)> {
    let moments = unit.moments();
    let (first, last, distance) = stretches(levels);
    let count = ((last - first) / distance).round() as usize;
    let mut found: Option<(Line, f32)> = None;
    for index in 0..=count {
        let stretch = first + distance * index as f32;
        let step = levels / (levels + stretch);
        // What is cut off is above, on both sides, or below.
        for share in [0.0, 0.5, 1.0] {
            let base = share * stretch * step;
            let sums = unit.try_line(Line { step, base }, levels);
            if let Some((line, error)) = sums.line(moments)
                && found.is_none_or(|(_, least)| error < least)
            {
                found = Some((line, error));
            }
        }
    }
    found
}

/// The nearest bf16, the one below and the one above.
fn beside(value: f32) -> [f32; 3] {
    let nearest = bf16::round(value);
    let bits = [nearest, nearest.wrapping_sub(1), nearest.wrapping_add(1)];
    bits.map(bf16::widen)
}

fn rounded(step: f32, base: f32) -> Line {
    Line {
        step: bf16::widen(bf16::round(step)),
        base: bf16::widen(bf16::round(base)),
    }
}

fn anchored(least: f32, most: f32, step: f32) -> Option<Line> {
    let (edge, scale) = if least.abs() > most.abs() {
        (least, step)
    } else {
        (most, -step)
    };
    let steps_to_zero = (edge / scale).round();
    (steps_to_zero != 0.0).then(|| rounded(edge / steps_to_zero, edge))
}
