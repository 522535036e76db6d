//! Reference of matrix products, decoding and activation quantization.

use super::dot16;
use crate::{
    Coded, KernelError, MatmulJob, Matrix, MatrixData, Quantized, Rounding, SEGMENT, coding::TILE,
    matmul::check_row,
};

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
    let x = &job.x[token * cols..][..cols];
    match (job.weights.data(), job.quantized) {
        (MatrixData::Coded(coded), Some(quantized)) => {
            integer_dot(&coded, job.weights.rows(), row, quantized, token)
        }
        (MatrixData::Coded(_), None) => four_sums(&decoded(&job.weights, row), x),
        _ => dot16(&decoded(&job.weights, row), x),
    }
}

/// The dot product of an integer-coded row and a rounded token.
fn integer_dot(coded: &Coded<'_>, rows: usize, row: usize, x: &Quantized, token: usize) -> f32 {
    let tile = coded.tile(rows, x.cols, row / TILE * TILE);
    let Rounding { group, zero } = x.rounding;
    let (lane, groups) = (row % TILE, x.cols / group);
    let mut total = 0.0;
    for first in (0..groups).step_by(SEGMENT / group) {
        let mut acc = 0.0f32;
        for g in first..groups.min(first + SEGMENT / group) {
            let mut dot = 0i32;
            for j in g * group..(g + 1) * group {
                let integer = tile.integer(lane, j) as i32 - zero;
                dot += integer * i32::from(x.values[token * x.cols + j]);
            }
            let (scale, bias) = tile.map(lane, g);
            acc = (scale * x.scales[token * groups + g]).mul_add(dot as f32, acc);
            if coded.coding.has_bias() {
                acc = bias.mul_add(x.sums[token * groups + g], acc);
            }
        }
        total = if first == 0 { acc } else { total + acc };
    }
    total
}

/// Four partial sums, element k in sum k mod 4.
fn four_sums(w: &[f32], x: &[f32]) -> f32 {
    let mut sums = [0.0f32; 4];
    for (k, (w, x)) in w.iter().zip(x).enumerate() {
        sums[k % 4] = w.mul_add(*x, sums[k % 4]);
    }
    (sums[0] + sums[2]) + (sums[1] + sums[3])
}

fn bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

fn decoded(matrix: &Matrix<'_>, row: usize) -> Vec<f32> {
    let cols = matrix.cols();
    let at = |j: usize| row * cols + j;
    (0..cols)
        .map(|j| match matrix.data() {
            MatrixData::F32(w) => w[at(j)],
            MatrixData::F16(w) => half::f16::from_bits(w[at(j)]).to_f32_const(),
            MatrixData::Bf16(w) => bf16(w[at(j)]),
            MatrixData::F8(w) => w.value(cols, row, j),
            MatrixData::Coded(coded) => {
                let tile = coded.tile(matrix.rows(), cols, row / TILE * TILE);
                tile.value(row % TILE, j)
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
pub fn quantize(
    x: &[f32],
    n: usize,
    cols: usize,
    rounding: Rounding,
) -> Result<Quantized, KernelError> {
    let group = rounding.group;
    let mut quantized = Quantized::default();
    quantized.resize(x, n, cols, rounding)?;
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
        }
        quantized.scales[g] = scale;
        quantized.sums[g] = scale * sum as f32;
        quantized.offsets[g] = -rounding.zero * sum;
    }
    Ok(quantized)
}
