//! Floats of 8 bits with scales of each type: what they stand for, and the same bits everywhere.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use common::{Random, assert_same, cpus};
use moeflux_kernels::{F8, F8_BLOCK, F8Scales, MatmulJob, Matrix, MatrixData, reference};

/// Neither squares nor vectors of 16 come out even.
const ROWS: usize = 150;
const COLS: usize = 200;
const TOKENS: usize = 5;

/// Scales of the four squares in each type, and as numbers.
struct Scales {
    floats: [f32; 4],
    halves: [u16; 4],
    exponents: [u8; 4],
}

const SCALES: Scales = Scales {
    floats: [0.013, 2.5e-4, 7.0, 1e-3],
    // 1.5, 0.25, 3, 2^-127.
    halves: [0x3fc0, 0x3e80, 0x4040, 0x0040],
    // 0 is the least power, 2^-127.
    exponents: [127, 120, 133, 0],
};

impl Scales {
    /// Of each type, with what they stand for.
    fn all(&self) -> [(F8Scales<'_>, [f64; 4]); 3] {
        let power = |exponent: u8| 2f64.powi(i32::from(exponent) - 127);
        [
            (F8Scales::F32(&self.floats), self.floats.map(f64::from)),
            (
                F8Scales::Bf16(&self.halves),
                [1.5, 0.25, 3.0, 2f64.powi(-127)],
            ),
            (F8Scales::E8M0(&self.exponents), self.exponents.map(power)),
        ]
    }
}

/// A sign, four bits of exponent, three of mantissa.
fn number(byte: u8) -> f64 {
    let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f64::from(byte & 7) / 8.0);
    let size = match exponent {
        0 => mantissa * 2f64.powi(-6),
        _ => (1.0 + mantissa) * 2f64.powi(exponent - 7),
    };
    if byte < 128 { size } else { -size }
}

#[test]
fn rows_are_numbers_times_scales() {
    let weights = Random(3).bytes(ROWS * COLS);
    for (scales, numbers) in SCALES.all() {
        let f8 = F8 {
            weights: &weights,
            scales,
        };
        let matrix = Matrix::new(ROWS, COLS, MatrixData::F8(f8)).unwrap();
        for row in [0, 127, 128, 149] {
            let scale = |col: usize| numbers[row / F8_BLOCK * 2 + col / F8_BLOCK];
            let value = |col: usize| number(weights[row * COLS + col]) * scale(col);
            let expected: Vec<f32> = (0..COLS).map(|col| value(col) as f32).collect();
            for cpu in cpus() {
                let mut found = vec![f32::NAN; COLS];
                cpu.decode_row(&matrix, row, &mut found).unwrap();
                assert_same(&format!("{scales:?}, row {row}"), &cpu, &found, &expected);
            }
        }
    }
}

#[test]
fn products_have_the_reference_bits() {
    let mut random = Random(4);
    let weights = random.bytes(ROWS * COLS);
    let x = random.floats(TOKENS * COLS);
    for (scales, _) in SCALES.all() {
        let f8 = F8 {
            weights: &weights,
            scales,
        };
        let weights = Matrix::new(ROWS, COLS, MatrixData::F8(f8)).unwrap();
        let mut expected = vec![0.0; TOKENS * ROWS];
        reference::matmul(&mut [job(weights, &x, &mut expected)]).unwrap();
        for cpu in cpus() {
            let mut found = vec![0.0; TOKENS * ROWS];
            cpu.matmul(&mut [job(weights, &x, &mut found)]).unwrap();
            assert_same(&format!("{scales:?}"), &cpu, &found, &expected);
        }
    }
}

fn job<'a>(weights: Matrix<'a>, x: &'a [f32], out: &'a mut [f32]) -> MatmulJob<'a> {
    MatmulJob {
        weights,
        x,
        quantized: None,
        tokens: None,
        out,
    }
}

#[test]
fn scales_of_another_number_are_refused() {
    let weights = vec![0; ROWS * COLS];
    let f8 = F8 {
        weights: &weights,
        scales: F8Scales::E8M0(&SCALES.exponents[..3]),
    };
    assert!(Matrix::new(ROWS, COLS, MatrixData::F8(f8)).is_err());
}
