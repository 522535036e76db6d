//! Matrix products and rows of matrices against the host's kernels.

mod common;

use common::random_matrix::{Random, codings};
use common::{close, gpu, poisoned, random, upload};
use half::{bf16, f16};
use moeflux_gpu::matrix::DeviceMatrix;
use moeflux_gpu::{Recorder, ops};
use moeflux_kernels::{F8, F8_BLOCK, F8Scales, MatmulJob, Matrix, MatrixData, reference};

fn check(matrix: &Matrix<'_>, n: usize, what: &str) {
    let gpu = gpu();
    let x = random(9, n * matrix.cols());
    let mut expected = vec![0.0; n * matrix.rows()];
    let job = MatmulJob {
        weights: *matrix,
        x: &x,
        quantized: None,
        tokens: None,
        out: &mut expected,
    };
    reference::matmul(&mut [job]).expect("it fits");
    let device = DeviceMatrix::upload(&gpu, matrix).expect("there is memory");
    let (x, out) = (upload(&gpu, &x), poisoned(&gpu, expected.len()));
    let mut r = Recorder::new(gpu.clone());
    ops::matvec(&mut r, &device, (&x).into(), n, (&out).into()).expect("it runs");
    let bytes = r.read(&[(&out).into()]).expect("it can be read");
    let found: &[f32] = bytemuck::cast_slice(&bytes);
    close(&found[..expected.len()], &expected, 1e-5, what);
    let tokens: Vec<u32> = (0..n).map(|i| (i * 7 % matrix.rows()) as u32).collect();
    let rows = poisoned(&gpu, n * matrix.cols());
    let ids = gpu
        .buffer_with("tokens", bytemuck::cast_slice(&tokens))
        .expect("there is memory");
    ops::embed(&mut r, &device, (&ids).into(), n, (&rows).into()).expect("it runs");
    let bytes = r.read(&[(&rows).into()]).expect("it can be read");
    let mut expected = vec![0.0; n * matrix.cols()];
    for (&token, row) in tokens.iter().zip(expected.chunks_exact_mut(matrix.cols())) {
        reference::decode_row(matrix, token as usize, row).expect("there is such a row");
    }
    let found: &[f32] = bytemuck::cast_slice(&bytes);
    close(
        &found[..expected.len()],
        &expected,
        1e-6,
        &format!("embed, {what}"),
    );
}

#[test]
fn products_with_integers_are_those_of_the_reference() {
    for coding in codings() {
        for (rows, cols, n) in [(48, 512, 1), (35, 256, 3), (16, 1280, 11)] {
            let random = Random::new(coding, rows, cols);
            check(
                &random.matrix(),
                n,
                &format!("{coding:?} {rows}x{cols}, {n}"),
            );
        }
    }
}

#[test]
fn products_with_floats_are_those_of_the_reference() {
    for (rows, cols, n) in [
        (48, 512, 1),
        (35, 30, 3),
        (7, 1284, 11),
        (5, 7, 2),
        (150, 260, 3),
    ] {
        let what = format!("{rows}x{cols}, {n}");
        let values = random(4, rows * cols);
        let halves: Vec<u16> = values.iter().map(|v| f16::from_f32(*v).to_bits()).collect();
        let bytes: Vec<u8> = (0..rows * cols).map(|i| (i * 37 % 251) as u8).collect();
        let blocks = rows.div_ceil(F8_BLOCK) * cols.div_ceil(F8_BLOCK);
        let scales: Vec<f32> = (0..blocks).map(|i| 0.25 + i as f32 / 16.0).collect();
        let brains: Vec<u16> = values
            .iter()
            .map(|v| bf16::from_f32(*v).to_bits())
            .collect();
        for data in [
            MatrixData::F32(&values),
            MatrixData::F16(&halves),
            MatrixData::Bf16(&brains),
            MatrixData::F8(F8 {
                weights: &bytes,
                scales: F8Scales::F32(&scales),
            }),
        ] {
            check(&Matrix::new(rows, cols, data).expect("it fits"), n, &what);
        }
    }
}
