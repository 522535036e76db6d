//! Holds two traces to each other. Cosine similarity is not used: it is blind to a wrong scale,
//! and to zeros. Every comparison refuses results that are not finite or all zero.

use crate::HarnessError;
use crate::trace::{OpResult, Timeline, Trace};

/// The largest difference of one element, in units of the row's tolerated mean error.
const LARGEST_OVER_MEAN: f64 = 10.0;

/// Requires the same bits everywhere: all results of all sessions, and their state.
///
/// # Errors
/// [`HarnessError::Difference`] at the first place.
pub fn identical(found: &Trace, expected: &Trace) -> Result<(), HarnessError> {
    let pairs = pairs(found, expected)?;
    for (number, (found, expected)) in pairs.enumerate() {
        identical_timelines(found, expected).map_err(|e| in_session(number, e))?;
    }
    Ok(())
}

/// Requires L2 errors of at most `tolerance` in every row of every result and in every state,
/// relative to the row's norm or to the mean norm of the result's rows, whichever is larger; a
/// router's choice may be in any order. Gives the largest error.
///
/// # Errors
/// [`HarnessError::Difference`] at the first place where more differs.
pub fn close(found: &Trace, expected: &Trace, tolerance: f64) -> Result<f64, HarnessError> {
    let mut worst: f64 = 0.0;
    for (number, (found, expected)) in pairs(found, expected)?.enumerate() {
        let error = close_timelines(found, expected, tolerance);
        worst = worst.max(error.map_err(|e| in_session(number, e))?);
    }
    Ok(worst)
}

/// [`identical`] for one session; where one of the two timelines has no state, the other's does
/// not count.
///
/// # Errors
/// As there.
pub fn identical_timelines(found: &Timeline, expected: &Timeline) -> Result<(), HarnessError> {
    for (found, expected) in results(found, expected)? {
        healthy(found)?;
        if found.ids != expected.ids {
            return Err(difference(found, 0, "other experts were chosen".to_owned()));
        }
        if let Some(at) = first_difference(&found.values, &expected.values) {
            let (a, b) = (found.values[at], expected.values[at]);
            let problem = format!("element {} is {a:e}, expected {b:e}", at % found.width);
            return Err(difference(found, at / found.width, problem));
        }
    }
    for (number, (found, expected)) in found.states.iter().zip(&expected.states).enumerate() {
        if let Some(at) = first_difference(found, expected) {
            return Err(HarnessError::Difference {
                place: format!("state {number}"),
                problem: format!(
                    "element {at} is {:e}, expected {:e}",
                    found[at], expected[at]
                ),
            });
        }
    }
    Ok(())
}

/// [`close`] for one session; where one of the two timelines has no state, the other's does not
/// count.
///
/// # Errors
/// As there.
pub fn close_timelines(
    found: &Timeline,
    expected: &Timeline,
    tolerance: f64,
) -> Result<f64, HarnessError> {
    let mut worst: f64 = 0.0;
    for (found, expected) in results(found, expected)? {
        healthy(found)?;
        let (found, expected) = (by_id(found), by_id(expected));
        let count = (expected.values.len() / expected.width) as f64;
        let mean_norm = (square(&expected.values) / count).sqrt();
        let rows = found.values.chunks_exact(found.width);
        for (row, (a, b)) in rows
            .zip(expected.values.chunks_exact(found.width))
            .enumerate()
        {
            if let (Some(chosen), Some(wanted)) = (&found.ids, &expected.ids) {
                let at = row * found.width..(row + 1) * found.width;
                if chosen[at.clone()] != wanted[at] {
                    return Err(difference(
                        &found,
                        row,
                        "other experts were chosen".to_owned(),
                    ));
                }
            }
            let error =
                error(a, b, mean_norm, tolerance).map_err(|p| difference(&found, row, p))?;
            worst = worst.max(error);
        }
    }
    for (number, (found, expected)) in found.states.iter().zip(&expected.states).enumerate() {
        let error = error(found, expected, 0.0, tolerance).map_err(|problem| {
            let place = format!("state {number}");
            HarnessError::Difference { place, problem }
        })?;
        worst = worst.max(error);
    }
    Ok(worst)
}

fn square(values: &[f32]) -> f64 {
    values.iter().map(|&v| f64::from(v) * f64::from(v)).sum()
}

/// The L2 error of a row relative to its norm (but at least `least_norm`), if it and its largest
/// element are tolerable.
fn error(found: &[f32], expected: &[f32], least_norm: f64, tolerance: f64) -> Result<f64, String> {
    let (mut sum, mut largest) = (0.0_f64, 0.0_f64);
    for (&a, &b) in found.iter().zip(expected) {
        let d = f64::from(a) - f64::from(b);
        sum += d * d;
        largest = largest.max(d.abs());
    }
    if found.len() != expected.len() || !sum.is_finite() {
        return Err("lengths differ, or values are not finite".to_owned());
    }
    if sum == 0.0 {
        return Ok(0.0);
    }
    let norm = square(expected).sqrt().max(least_norm);
    let relative = sum.sqrt() / norm;
    let mean = norm / (found.len() as f64).sqrt();
    if relative > tolerance {
        return Err(format!(
            "relative L2 error {relative:.2e}, allowed {tolerance:.0e}"
        ));
    }
    if largest > LARGEST_OVER_MEAN * tolerance * mean {
        return Err(format!(
            "one element is off by {largest:.2e} where the mean size is {mean:.2e}"
        ));
    }
    Ok(relative)
}

/// A router's choice in ascending expert id; other results as they are.
fn by_id(result: &OpResult) -> OpResult {
    let mut sorted = result.clone();
    if let Some(ids) = &mut sorted.ids {
        let rows = ids.chunks_exact_mut(result.width);
        for (ids, weights) in rows.zip(sorted.values.chunks_exact_mut(result.width)) {
            let mut pairs: Vec<(u32, f32)> =
                ids.iter().copied().zip(weights.iter().copied()).collect();
            pairs.sort_unstable_by_key(|p| p.0);
            for (at, (id, weight)) in pairs.into_iter().enumerate() {
                (ids[at], weights[at]) = (id, weight);
            }
        }
    }
    sorted
}

/// Requires results that say something: some, finite, not all zero.
fn healthy(result: &OpResult) -> Result<(), HarnessError> {
    let bad = result.values.iter().position(|x| !x.is_finite());
    if let Some(at) = bad {
        let problem = format!("element {} is {}", at % result.width, result.values[at]);
        return Err(difference(result, at / result.width, problem));
    }
    if result.values.iter().all(|&x| x == 0.0) {
        return Err(difference(result, 0, "everything is zero".to_owned()));
    }
    Ok(())
}

fn first_difference(a: &[f32], b: &[f32]) -> Option<usize> {
    if a.len() != b.len() {
        return Some(a.len().min(b.len()).saturating_sub(1));
    }
    a.iter()
        .zip(b)
        .position(|(a, b)| a.to_bits() != b.to_bits())
}

fn pairs<'a>(
    found: &'a Trace,
    expected: &'a Trace,
) -> Result<impl Iterator<Item = (&'a Timeline, &'a Timeline)>, HarnessError> {
    let (a, b) = (found.sessions.len(), expected.sessions.len());
    if a != b || a == 0 {
        return Err(HarnessError::Difference {
            place: "the run".to_owned(),
            problem: format!("{a} sessions, expected {b}"),
        });
    }
    Ok(found.sessions.iter().zip(&expected.sessions))
}

/// The results in pairs, which must be of the same operations and sizes.
fn results<'a>(
    found: &'a Timeline,
    expected: &'a Timeline,
) -> Result<impl Iterator<Item = (&'a OpResult, &'a OpResult)>, HarnessError> {
    let key = |r: &OpResult| (r.op, r.buffer, r.width, r.values.len(), r.ids.is_some());
    let (a, b): (Vec<_>, Vec<_>) = (
        found.results.iter().map(key).collect(),
        expected.results.iter().map(key).collect(),
    );
    if a != b {
        return Err(HarnessError::Difference {
            place: "the run".to_owned(),
            problem: format!("results {a:?}, expected {b:?}"),
        });
    }
    Ok(found.results.iter().zip(&expected.results))
}

fn difference(result: &OpResult, row: usize, problem: String) -> HarnessError {
    let (op, name, buffer) = (result.op, result.name, result.buffer);
    HarnessError::Difference {
        place: format!("operation {op}, {name}, buffer {buffer}, row {row}"),
        problem,
    }
}

fn in_session(number: usize, error: HarnessError) -> HarnessError {
    match error {
        HarnessError::Difference { place, problem } => HarnessError::Difference {
            place: format!("session {number}, {place}"),
            problem,
        },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(values: &[f32], ids: Option<Vec<u32>>) -> Trace {
        let result = OpResult {
            op: 0,
            name: "op",
            buffer: "out",
            width: 2,
            ids,
            values: values.to_vec(),
        };
        Trace {
            sessions: vec![Timeline {
                results: vec![result],
                states: vec![vec![1.0, 2.0]],
            }],
        }
    }

    #[test]
    fn small_differences_are_close_but_not_identical() {
        let (a, b) = (
            trace(&[1.0, 2.0, 3.0, 4.0], None),
            trace(&[1.0, 2.0, 3.0, 4.001], None),
        );
        assert!(identical(&a, &a.clone()).is_ok());
        assert!(identical(&a, &b).is_err());
        let error = close(&a, &b, 1e-3).expect("close");
        assert!((error - 0.001 / 5.0).abs() < 1e-6, "{error}");
        assert!(close(&a, &b, 1e-4).is_err());
    }

    /// What a cosine would let pass: a wrong scale, and zeros.
    #[test]
    fn wrong_scales_zeros_and_nan_are_refused() {
        let good = trace(&[1.0, 2.0, 3.0, 4.0], None);
        for bad in [
            [2.0, 4.0, 6.0, 8.0],
            [0.0; 4],
            [1.0, 2.0, f32::NAN, 4.0],
            [1.0, 2.0, 0.0, 0.0],
        ] {
            assert!(close(&trace(&bad, None), &good, 0.1).is_err(), "{bad:?}");
        }
        assert!(identical(&trace(&[0.0; 4], None), &trace(&[0.0; 4], None)).is_err());
        let nan = trace(&[f32::NAN; 4], None);
        assert!(identical(&nan, &nan.clone()).is_err());
    }

    #[test]
    fn a_choice_of_experts_may_be_in_another_order_but_no_other_choice() {
        let a = trace(&[0.75, 0.25, 0.5, 0.5], Some(vec![7, 3, 1, 2]));
        let swapped = trace(&[0.25, 0.75, 0.5, 0.5], Some(vec![3, 7, 1, 2]));
        let wrong = trace(&[0.75, 0.25, 0.5, 0.5], Some(vec![7, 3, 1, 4]));
        assert_eq!(close(&a, &swapped, 0.0).expect("the same choice"), 0.0);
        assert!(identical(&a, &swapped).is_err());
        assert!(close(&a, &wrong, 0.5).is_err());
    }

    #[test]
    fn state_counts_where_both_have_one() {
        let a = trace(&[1.0; 4], None);
        let mut b = a.clone();
        b.sessions[0].states[0][1] = 2.5;
        assert!(identical(&a, &b).is_err() && close(&a, &b, 0.01).is_err());
        b.sessions[0].states.clear();
        assert!(identical(&a, &b).is_ok());
    }
}
