//! Decoding of weights, accuracy of products, values that are not numbers, and wrong sizes.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use common::{Codec, Kind, Random, Weights, affine, assert_same, codings, cpus, relative_l2};
use moeflux_kernels::{
    Coded, Coding, Cpu, Isa, KernelError, MatmulJob, Matrix, MatrixData, Quantized, Rounding,
    reference,
};

#[test]
fn decoded_rows() {
    let mut codecs = vec![Codec::F32, Codec::F16, Codec::Bf16];
    codecs.extend(codings().into_iter().map(Codec::Coded));
    for codec in codecs {
        let cols = if matches!(codec, Codec::Coded(_)) {
            512
        } else {
            37
        };
        let weights = Weights::new(&mut Random(5), codec, 19, cols, Kind::Mixed);
        for row in [0, 5, 15, 16, 18] {
            let mut expected = vec![0.0; cols];
            reference::decode_row(&weights.matrix(), row, &mut expected).unwrap();
            for cpu in cpus() {
                let mut out = vec![1.0; cols];
                cpu.decode_row(&weights.matrix(), row, &mut out).unwrap();
                assert_same(&format!("{codec:?}"), &cpu, &out, &expected);
            }
        }
    }
}

#[test]
fn tiles_hold_what_the_rows_held() {
    for coding in codings() {
        let codec = Codec::Coded(coding);
        let weights = Weights::new(&mut Random(9), codec, 37, 768, Kind::Plain);
        let row_bytes = weights.rows_of_bytes.len() / 37;
        let groups = weights.rows_of_scales.len() / 37;
        for row in 0..37 {
            let maps = row * groups..(row + 1) * groups;
            let expected = common::plain::decode(
                coding,
                &weights.rows_of_bytes[row * row_bytes..][..row_bytes],
                &weights.rows_of_scales[maps.clone()],
                // Some codings have none.
                weights.rows_of_biases.get(maps).unwrap_or_default(),
            );
            let mut decoded = vec![f32::NAN; 768];
            reference::decode_row(&weights.matrix(), row, &mut decoded).unwrap();
            let wrong = decoded.iter().zip(&expected).position(|(a, b)| a != b);
            assert_eq!(wrong, None, "{coding:?} row {row}");
        }
    }
}

#[test]
fn every_binary16_value_decodes_exactly() {
    let all: Vec<u16> = (0..=u16::MAX).collect();
    let matrix = Matrix::new(1, all.len(), MatrixData::F16(&all)).unwrap();
    let expected: Vec<f32> = all
        .iter()
        .map(|&x| half::f16::from_bits(x).to_f32())
        .collect();
    for cpu in cpus() {
        let mut out = vec![0.0; all.len()];
        cpu.decode_row(&matrix, 0, &mut out).unwrap();
        assert_same("f16", &cpu, &out, &expected);
    }
}

#[test]
fn eight_bit_activations_are_close_to_f32() {
    for coding in codings() {
        let mut random = Random(2);
        let weights = Weights::new(&mut random, Codec::Coded(coding), 64, 1024, Kind::Plain);
        let x = random.floats(4 * 1024);
        let cpu = Cpu::new(Isa::detect(), 2).unwrap();
        let mut quantized = Quantized::default();
        quantized
            .quantize(&cpu, &x, 4, 1024, coding.rounding())
            .unwrap();
        let run = |quantized| {
            let mut out = vec![0.0; 4 * 64];
            let job = MatmulJob {
                weights: weights.matrix(),
                x: &x,
                quantized,
                tokens: None,
                out: &mut out,
            };
            cpu.matmul(&mut [job]).unwrap();
            out
        };
        let error = relative_l2(&run(Some(&quantized)), &run(None));
        assert!(error < 1e-2, "{coding:?}: {error}");
        assert!(error > 0.0, "the integer path was not taken");
    }
}

#[test]
fn f32_products_match_f64_arithmetic() {
    let mut random = Random(4);
    let weights = Weights::new(&mut random, Codec::F32, 20, 300, Kind::Plain);
    let x = random.floats(300);
    let expected: Vec<f32> = weights
        .f32s
        .chunks(300)
        .map(|w| {
            w.iter()
                .zip(&x)
                .map(|(&w, &x)| f64::from(w) * f64::from(x))
                .sum::<f64>() as f32
        })
        .collect();
    let mut out = vec![0.0; 20];
    let job = MatmulJob {
        weights: weights.matrix(),
        x: &x,
        quantized: None,
        tokens: None,
        out: &mut out,
    };
    Cpu::new(Isa::detect(), 1)
        .unwrap()
        .matmul(&mut [job])
        .unwrap();
    assert!(relative_l2(&out, &expected) < 1e-6);
}

#[test]
fn not_a_number_in_one_group_reaches_every_row_of_its_token_only() {
    let mut random = Random(6);
    let weights = Weights::new(&mut random, affine(4, 32), 20, 64, Kind::Plain);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut x = random.floats(3 * 64);
        x[64 + 5] = bad;
        for cpu in cpus() {
            let mut quantized = Quantized::default();
            quantized
                .quantize(&cpu, &x, 3, 64, Rounding { group: 32, zero: 0 })
                .unwrap();
            let mut out = vec![0.0; 3 * 20];
            let job = MatmulJob {
                weights: weights.matrix(),
                x: &x,
                quantized: Some(&quantized),
                tokens: None,
                out: &mut out,
            };
            cpu.matmul(&mut [job]).unwrap();
            for (i, value) in out.iter().enumerate() {
                assert_eq!(value.is_nan(), i / 20 == 1, "{bad} at {i} on {}", cpu.isa());
            }
        }
    }
}

#[test]
fn wrong_sizes_are_errors() {
    let bytes = [0u8; 64];
    let (maps, few) = ([0u16; 4], [0u16; 3]);
    let affine = |bits, group, scales| {
        MatrixData::Coded(Coded {
            coding: Coding::Affine { bits, group },
            weights: &bytes,
            scales,
            biases: &maps,
            global: 1.0,
        })
    };
    assert!(Matrix::new(2, 64, affine(4, 32, &maps)).is_ok());
    assert!(matches!(
        Matrix::new(2, 64, affine(7, 32, &maps)),
        Err(KernelError::Bits { bits: 7 })
    ));
    assert!(matches!(
        Matrix::new(2, 64, affine(4, 48, &maps)),
        Err(KernelError::Group { .. })
    ));
    assert!(matches!(
        Matrix::new(2, 64, affine(4, 32, &few)),
        Err(KernelError::Size { .. })
    ));
    assert!(matches!(
        Matrix::new(2, 48, affine(4, 32, &maps)),
        Err(KernelError::Shape { .. })
    ));
    assert!(matches!(
        Matrix::new(0, 64, MatrixData::F32(&[])),
        Err(KernelError::Shape { .. })
    ));
    assert!(Matrix::new(usize::MAX, 8, MatrixData::F32(&[0.0; 8])).is_err());

    let rounding = |group| Rounding { group, zero: 0 };
    let cpu = Cpu::new(Isa::Scalar, 1).unwrap();
    let weights = Matrix::new(2, 4, MatrixData::F32(&[1.0; 8])).unwrap();
    let run = |x: &[f32], tokens: Option<&[u32]>, len: usize| {
        let out = &mut vec![0.0; len];
        cpu.matmul(&mut [MatmulJob {
            weights,
            x,
            quantized: None,
            tokens,
            out,
        }])
    };
    assert!(run(&[1.0; 8], None, 4).is_ok());
    assert!(matches!(
        run(&[1.0; 7], None, 4),
        Err(KernelError::Shape { .. })
    ));
    assert!(matches!(
        run(&[1.0; 8], None, 3),
        Err(KernelError::Size { .. })
    ));
    assert!(matches!(
        run(&[1.0; 8], Some(&[2]), 2),
        Err(KernelError::Index { .. })
    ));
    assert!(cpu.decode_row(&weights, 2, &mut [0.0; 4]).is_err());
    assert!(
        Quantized::default()
            .quantize(&cpu, &[0.0; 64], 1, 64, rounding(48))
            .is_err()
    );
    assert!(
        Quantized::default()
            .quantize(&cpu, &[0.0; 64], 1, 48, rounding(32))
            .is_err()
    );
}
