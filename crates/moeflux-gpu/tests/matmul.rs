//! Matrix products and rows of matrices against the host's kernels.

mod common;

use common::{close, gpu, poisoned, random, upload};
use half::{bf16, f16};
use moeflux_gpu::matrix::DeviceMatrix;
use moeflux_gpu::{Recorder, ops};
use moeflux_kernels::{Coded, Coding, MatmulJob, Matrix, MatrixData, arrange, reference};

/// Weights of a coding as files have them: random integers, small scales.
struct Random {
    coding: Coding,
    rows: usize,
    cols: usize,
    weights: Vec<u8>,
    scales: Vec<u16>,
    biases: Vec<u16>,
}

impl Random {
    fn new(coding: Coding, rows: usize, cols: usize) -> Random {
        let [weights, scales, biases] = coding.part_lengths(rows, cols).expect("it is a shape");
        let bytes = |seed, len| {
            random(seed, len)
                .iter()
                .map(|v| (v * 127.0) as i8 as u8)
                .collect()
        };
        let maps = |seed, len| {
            random(seed, len)
                .iter()
                .map(|v| bf16::from_f32(*v * 0.1).to_bits())
                .collect()
        };
        let mut weights: Vec<u8> = bytes(5, weights);
        // Half-precision scales of blocks must be finite and of a likely size.
        let blocks: &[usize] = match coding {
            Coding::Affine { .. } => &[],
            Coding::Q4_0 | Coding::Q8_0 => &[0],
            Coding::Q4K | Coding::Q5K => &[0, 2],
            Coding::Q6K => &[208],
            other => panic!("{other:?} has no kernel"),
        };
        let block_bytes = match coding {
            Coding::Affine { .. } => 1,
            Coding::Q4_0 => 18,
            Coding::Q8_0 => 34,
            Coding::Q4K => 144,
            Coding::Q5K => 176,
            Coding::Q6K => 210,
            other => panic!("{other:?} has no kernel"),
        };
        for (index, block) in weights.chunks_exact_mut(block_bytes).enumerate() {
            for &at in blocks {
                // Some are subnormal.
                let scale = f16::from_f32(if index % 3 == 0 {
                    2e-5
                } else {
                    0.01 * (index % 7) as f32
                });
                block[at..at + 2].copy_from_slice(&scale.to_le_bytes());
            }
        }
        let (mut scales, mut biases): (Vec<u16>, Vec<u16>) = (maps(6, scales), maps(7, biases));
        let [s, b] = [&mut scales, &mut biases].map(|part| bytemuck::cast_slice_mut(part));
        arrange(coding, rows, cols, &mut weights, s, b).expect("it fits");
        Random {
            coding,
            rows,
            cols,
            weights,
            scales,
            biases,
        }
    }

    fn matrix(&self) -> Matrix<'_> {
        let coded = Coded {
            coding: self.coding,
            weights: &self.weights,
            scales: &self.scales,
            biases: &self.biases,
        };
        Matrix::new(self.rows, self.cols, MatrixData::Coded(coded)).expect("it fits")
    }
}

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
    let mut codings = vec![
        Coding::Q4_0,
        Coding::Q8_0,
        Coding::Q4K,
        Coding::Q5K,
        Coding::Q6K,
    ];
    for bits in [2, 3, 4, 5, 6, 8] {
        for group in if bits == 4 {
            vec![32, 64, 128]
        } else {
            vec![64]
        } {
            codings.push(Coding::Affine { bits, group });
        }
    }
    for coding in codings {
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
    for (rows, cols, n) in [(48, 512, 1), (35, 30, 3), (7, 1284, 11), (5, 7, 2)] {
        let what = format!("{rows}x{cols}, {n}");
        let values = random(4, rows * cols);
        let halves: Vec<u16> = values.iter().map(|v| f16::from_f32(*v).to_bits()).collect();
        let brains: Vec<u16> = values
            .iter()
            .map(|v| bf16::from_f32(*v).to_bits())
            .collect();
        for data in [
            MatrixData::F32(&values),
            MatrixData::F16(&halves),
            MatrixData::Bf16(&brains),
        ] {
            check(&Matrix::new(rows, cols, data).expect("it fits"), n, &what);
        }
    }
}
