//! Decodes rows of what was written and compares them with their source: the last check, which
//! would find a wrong place or layout that checksums of wrong bytes cannot.

use std::fs::File;
use std::path::Path;

use super::rows::RowSource;
use super::unit::PlacedMatrix;
use crate::Checkpoint;
use crate::codec::{Codec, Encoded, bf16, decode};
use crate::error::{FormatError, Result};
use crate::io::read_exact_at;

/// Checks the first, middle and last row of each matrix.
pub(super) fn check_samples(
    source: &Checkpoint,
    file: &File,
    path: &Path,
    matrices: &[PlacedMatrix<'_>],
) -> Result<()> {
    for placed in matrices {
        let matrix = placed.matrix;
        let rows = RowSource::new(source, matrix)?;
        let mut bytes = Vec::new();
        let mut expected = vec![0.0; matrix.cols];
        for row in [0, matrix.rows / 2, matrix.rows.saturating_sub(1)] {
            if matrix.rows == 0 || matrix.cols == 0 {
                continue;
            }
            let is_right = match rows.kept_row(row)? {
                Some(kept) => kept == read_part(file, path, placed.weights, row, kept.len())?,
                None => {
                    rows.read(row, &mut bytes, &mut expected)?;
                    let found = read_row(file, path, placed, row)?;
                    let weights = matrix.importance.get();
                    is_near(matrix.codec, weights, &expected, &found)
                }
            };
            if !is_right {
                let name = &matrix.source.tensor;
                let reason = format!("row {row} of {} is not that of {name}", matrix.name);
                return Err(FormatError::CorruptFile {
                    path: path.to_path_buf(),
                    reason,
                });
            }
        }
    }
    Ok(())
}

fn read_row(file: &File, path: &Path, placed: &PlacedMatrix<'_>, row: usize) -> Result<Vec<f32>> {
    let (codec, cols) = (placed.matrix.codec, placed.matrix.cols);
    let sizes = codec.encoded_bytes(1, cols)?;
    let read = |start: u64, bytes: usize| read_part(file, path, start, row, bytes);
    let encoded = Encoded {
        weights: read(placed.weights, sizes.weights)?,
        scales: read(placed.scales, sizes.scales)?,
        biases: read(placed.biases, sizes.biases)?,
    };
    decode(codec, &encoded, 1, cols)
}

/// What a part that starts at `start` has of a row, `bytes` long.
fn read_part(file: &File, path: &Path, start: u64, row: usize, bytes: usize) -> Result<Vec<u8>> {
    let mut out = vec![0; bytes];
    if bytes > 0 {
        read_exact_at(file, path, &mut out, start + (row * bytes) as u64)?;
    }
    Ok(out)
}

/// Whether a decoded row is as near as the codec must come, errors weighing as they did when it was
/// rounded: by the `weights` of columns, or alike if there are none.
fn is_near(codec: Codec, weights: &[f32], expected: &[f32], found: &[f32]) -> bool {
    let same = |a: f32, b: f32| a == b || (a.is_nan() && b.is_nan());
    let near = |(&a, &b): (&f32, &f32)| match codec {
        Codec::F32 => a.to_bits() == b.to_bits(),
        Codec::F16 => same(half::f16::from_f32(a).to_f32(), b),
        Codec::Bf16 => same(bf16::widen(bf16::round(a)), b),
        // These are kept or have bounds of their own.
        Codec::Affine(_) | Codec::Block(_) | Codec::F8(_) | Codec::Nvfp4 | Codec::Centered(_) => {
            true
        }
    };
    let blocks = |length: usize, bound: &dyn Fn(&[f32]) -> f64| {
        let mut blocks = expected
            .chunks(length)
            .zip(found.chunks(length))
            .enumerate();
        blocks.all(|(block, (expected, found))| {
            let weight = |at: usize| {
                weights
                    .get(block * length + at)
                    .map_or(1.0, |&w| f64::from(w))
            };
            let pairs = expected.iter().zip(found).enumerate();
            let (mut squared, mut all) = (0.0, 0.0);
            for (at, (&a, &b)) in pairs {
                squared += weight(at) * (f64::from(a) - f64::from(b)).powi(2);
                all += weight(at);
            }
            squared <= bound(expected).powi(2) * all
        })
    };
    let most = |values: &[f32]| values.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    match codec {
        Codec::Affine(affine) => {
            let levels = ((1_u32 << affine.bits) - 1) as f32;
            blocks(affine.group, &|values| {
                let least = values.iter().copied().fold(f32::INFINITY, f32::min);
                let highest = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let range = highest - least;
                // The fit kept is no worse than that of the plain range, whose error is at most half
                // a step and the rounding of scale and bias to bf16.
                let rounding = range.max(most(values)) / 128.0;
                f64::from(range / levels * 0.5 + rounding)
            })
        }
        Codec::Block(block) => blocks(block.block_elements(), &|values| {
            // The scale may be too small for f16 to hold more than its last bit.
            let last = 64.0 * half::f16::MIN_POSITIVE_SUBNORMAL.to_f32();
            f64::from(most(values) * block.most_error() + last)
        }),
        _ => expected.iter().zip(found).all(near),
    }
}
