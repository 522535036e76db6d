//! Reference of matrix products, decoding and activation quantization.

use super::dot16;
use crate::{KernelError, MatmulJob, Matrix, MatrixData, Quantized, SEGMENT, matmul::check_row};

/// See [`Cpu::matmul`](crate::Cpu::matmul).
///
/// # Errors
/// As there.
pub fn matmul(jobs: &mut [MatmulJob<'_>]) -> Result<(), KernelError> {
    for job in jobs.iter() {
        job.check()?;
    }
    for job in jobs {
        let m = job.out.len() / job.weights.rows();
        for row in 0..job.weights.rows() {
            for t in 0..m {
                let token = job.tokens.map_or(t, |tokens| tokens[t] as usize);
                job.out[t * job.weights.rows() + row] = element(job, row, token);
            }
        }
    }
    Ok(())
}

fn element(job: &MatmulJob<'_>, row: usize, token: usize) -> f32 {
    let cols = job.weights.cols();
    match (job.weights.group(), job.quantized) {
        (Some(_), Some(quantized)) => integer_dot(&job.weights, row, quantized, token),
        _ => dot16(&decoded(&job.weights, row), &job.x[token * cols..][..cols]),
    }
}

/// The dot product of an affine row and a quantized token.
fn integer_dot(matrix: &Matrix<'_>, row: usize, x: &Quantized, token: usize) -> f32 {
    let groups = matrix.cols() / x.group;
    let mut total = 0.0;
    for first in (0..groups).step_by(SEGMENT / x.group) {
        let mut acc = 0.0f32;
        for g in first..groups.min(first + SEGMENT / x.group) {
            let mut dot = 0i32;
            for j in g * x.group..(g + 1) * x.group {
                dot +=
                    affine_integer(matrix, row, j) as i32 * i32::from(x.values[token * x.cols + j]);
            }
            let (scale, bias) = affine_map(matrix, row, g);
            acc = (scale * x.scales[token * groups + g]).mul_add(dot as f32, acc);
            acc = bias.mul_add(x.sums[token * groups + g], acc);
        }
        total = if first == 0 { acc } else { total + acc };
    }
    total
}

/// Element j of an affine row as stored: `bits` bits of a little-endian bit stream.
fn affine_integer(matrix: &Matrix<'_>, row: usize, j: usize) -> u32 {
    let MatrixData::Affine { bits, weights, .. } = matrix.data() else {
        return 0;
    };
    let stream = &weights[row * matrix.cols() / 8 * bits as usize..];
    (0..bits as usize)
        .map(|bit| {
            let at = j * bits as usize + bit;
            u32::from(stream[at / 8] >> (at % 8) & 1) << bit
        })
        .sum()
}

/// Scale and bias of group g of an affine row.
fn affine_map(matrix: &Matrix<'_>, row: usize, g: usize) -> (f32, f32) {
    let MatrixData::Affine {
        group,
        scales,
        biases,
        ..
    } = matrix.data()
    else {
        return (0.0, 0.0);
    };
    let at = row * (matrix.cols() / group) + g;
    (bf16(scales[at]), bf16(biases[at]))
}

fn bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

fn decoded(matrix: &Matrix<'_>, row: usize) -> Vec<f32> {
    let at = |j: usize| row * matrix.cols() + j;
    (0..matrix.cols())
        .map(|j| match matrix.data() {
            MatrixData::F32(w) => w[at(j)],
            MatrixData::F16(w) => half::f16::from_bits(w[at(j)]).to_f32_const(),
            MatrixData::Bf16(w) => bf16(w[at(j)]),
            MatrixData::Affine { group, .. } => {
                let (scale, bias) = affine_map(matrix, row, j / group);
                (affine_integer(matrix, row, j) as f32).mul_add(scale, bias)
            }
        })
        .collect()
}

/// See [`Cpu::decode_row`](crate::Cpu::decode_row).
///
/// # Errors
/// As there.
pub fn decode_row(matrix: &Matrix<'_>, row: usize, out: &mut [f32]) -> Result<(), KernelError> {
    check_row(matrix, row, out)?;
    out.copy_from_slice(&decoded(matrix, row));
    Ok(())
}

/// See [`Quantized::quantize`].
///
/// # Errors
/// As there.
pub fn quantize(x: &[f32], n: usize, cols: usize, group: usize) -> Result<Quantized, KernelError> {
    let mut quantized = Quantized::default();
    quantized.resize(x, n, cols, group)?;
    for (g, x) in x.chunks_exact(group).enumerate() {
        let mut absmax = 0.0f32;
        for &x in x {
            absmax = if x.abs() > absmax { x.abs() } else { absmax };
        }
        let finite = x.iter().all(|x| x.is_finite());
        let scale = if finite { absmax / 127.0 } else { f32::NAN };
        let mut sum = 0i32;
        for (j, &x) in x.iter().enumerate() {
            let value = if scale > 0.0 {
                (x / scale).round_ties_even().clamp(-127.0, 127.0) as i8
            } else {
                0
            };
            sum += i32::from(value);
            quantized.values[g * group + j] = value;
            let pair = [0, 4, 1, 5, 2, 6, 3, 7][j % 8];
            quantized.paired[g * group + j / 8 * 8 + pair] = value;
        }
        quantized.scales[g] = scale;
        quantized.sums[g] = scale * sum as f32;
    }
    Ok(quantized)
}
