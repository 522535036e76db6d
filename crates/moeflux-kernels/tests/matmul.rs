//! Matrix products, decoding and quantization: every instruction set and thread count against
//! the reference, bit for bit.

mod common;

use common::{Codec, Kind, Random, Weights, assert_same, cpus, kind, relative_l2};
use moeflux_kernels::{Cpu, Isa, KernelError, MatmulJob, Matrix, MatrixData, Quantized, reference};
use proptest::prelude::*;

const GROUPS: [usize; 3] = [32, 64, 128];
const BITS: [u32; 6] = [2, 3, 4, 5, 6, 8];

/// One product with every processor against the reference.
fn compare(weights: &Weights, x: &[f32], tokens: Option<&[u32]>, quantize: bool) {
    let matrix = weights.matrix();
    let n = x.len() / weights.cols;
    let m = tokens.map_or(n, <[u32]>::len);
    let quantized = match matrix.group() {
        Some(group) if quantize => Some(reference::quantize(x, n, weights.cols, group).unwrap()),
        _ => None,
    };
    let mut expected = vec![0.0; m * weights.rows];
    let mut job = MatmulJob {
        weights: matrix,
        x,
        quantized: quantized.as_ref(),
        tokens,
        out: &mut expected,
    };
    reference::matmul(std::slice::from_mut(&mut job)).unwrap();
    for cpu in cpus() {
        let mut out = vec![1.0; m * weights.rows];
        let job = MatmulJob {
            weights: matrix,
            x,
            quantized: quantized.as_ref(),
            tokens,
            out: &mut out,
        };
        cpu.matmul(&mut [job]).unwrap();
        let what = format!(
            "{:?} {}x{} m={m}",
            weights.codec, weights.rows, weights.cols
        );
        assert_same(&what, &cpu, &out, &expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn float_weights(
        seed: u64, codec in 0usize..3, rows in 1usize..40, cols in 1usize..150, n in 1usize..10,
        w_kind in 0usize..14, x_kind in 0usize..14,
    ) {
        let mut random = Random(seed);
        let codec = [Codec::F32, Codec::F16, Codec::Bf16][codec];
        let weights = Weights::new(&mut random, codec, rows, cols, kind(w_kind));
        let x = random.values(kind(x_kind), n * cols);
        compare(&weights, &x, None, false);
    }

    #[test]
    fn affine_weights(
        seed: u64, bits in 0usize..6, group in 0usize..3, rows in 1usize..40,
        groups in 1usize..12, n in 1usize..12, w_kind in 0usize..14, x_kind in 0usize..14,
        quantize: bool,
    ) {
        let mut random = Random(seed);
        let codec = Codec::Affine { bits: BITS[bits], group: GROUPS[group] };
        let cols = groups * GROUPS[group];
        let weights = Weights::new(&mut random, codec, rows, cols, kind(w_kind));
        let x = random.values(kind(x_kind), n * cols);
        compare(&weights, &x, None, quantize);
    }

    #[test]
    fn chosen_tokens(seed: u64, n in 1usize..9, m in 0usize..9, quantize: bool) {
        let mut random = Random(seed);
        let codec = Codec::Affine { bits: 4, group: 32 };
        let weights = Weights::new(&mut random, codec, 17, 64, Kind::Plain);
        let x = random.floats(n * 64);
        let tokens: Vec<u32> = (0..m).map(|_| random.below(n) as u32).collect();
        compare(&weights, &x, Some(&tokens), quantize);
    }

    #[test]
    fn quantization(
        seed: u64, group in 0usize..3, groups in 1usize..5, n in 1usize..5, x_kind in 0usize..7,
    ) {
        let mut random = Random(seed);
        let cols = groups * GROUPS[group];
        let x = random.values(kind(x_kind), n * cols);
        let expected = reference::quantize(&x, n, cols, GROUPS[group]).unwrap();
        for cpu in cpus() {
            let mut quantized = Quantized::default();
            // Leftovers of another call must not shine through.
            quantized.quantize(&cpu, &[1.0; 256], 2, 128, 64).unwrap();
            quantized.quantize(&cpu, &x, n, cols, GROUPS[group]).unwrap();
            prop_assert_eq!(quantized.values(), expected.values());
            assert_same("scales", &cpu, quantized.scales(), expected.scales());
            assert_same("sums", &cpu, quantized.sums(), expected.sums());
        }
    }
}

#[test]
fn every_bit_width_and_group_with_the_greatest_integers() {
    for bits in BITS {
        for group in GROUPS {
            let codec = Codec::Affine { bits, group };
            let mut weights = Weights::new(&mut Random(1), codec, 18, 6 * 128, Kind::Plain);
            weights.bytes.fill(0xff);
            for n in [1, 2, 9] {
                for sign in [1.0, -1.0] {
                    compare(&weights, &vec![sign; n * 6 * 128], None, true);
                }
            }
        }
    }
}

#[test]
fn shapes_of_real_layers() {
    for (codec, rows, cols) in [
        (Codec::Affine { bits: 4, group: 64 }, 131, 2048),
        (Codec::Affine { bits: 8, group: 64 }, 1, 2048),
        (Codec::Affine { bits: 4, group: 64 }, 64, 512),
        (
            Codec::Affine {
                bits: 4,
                group: 128,
            },
            64,
            768,
        ),
        (Codec::Bf16, 130, 1024),
    ] {
        let mut random = Random(7);
        let weights = Weights::new(&mut random, codec, rows, cols, Kind::Plain);
        for n in [1, 3, 8] {
            compare(&weights, &random.floats(n * cols), None, true);
        }
    }
}

#[test]
fn many_jobs_in_one_call() {
    let mut random = Random(3);
    let codecs = [
        Codec::Affine { bits: 4, group: 32 },
        Codec::Bf16,
        Codec::Affine { bits: 8, group: 32 },
        Codec::F32,
        Codec::Affine { bits: 3, group: 32 },
    ];
    let shapes: Vec<_> = (0..20)
        .map(|i| (codecs[i % 5], 1 + random.below(70), 1 + i % 4))
        .collect();
    let weights: Vec<Weights> = shapes
        .iter()
        .map(|&(codec, rows, _)| Weights::new(&mut random, codec, rows, 96, Kind::Plain))
        .collect();
    let x = random.floats(4 * 96);
    let quantized = reference::quantize(&x, 4, 96, 32).unwrap();
    let run = |matmul: &dyn Fn(&mut [MatmulJob<'_>])| {
        let mut outs: Vec<Vec<f32>> = shapes
            .iter()
            .map(|&(_, rows, m)| vec![9.0; rows * m])
            .collect();
        let tokens = [2, 0, 3, 1];
        let mut jobs: Vec<MatmulJob<'_>> = weights
            .iter()
            .zip(&mut outs)
            .zip(&shapes)
            .map(|((weights, out), &(_, _, m))| MatmulJob {
                weights: weights.matrix(),
                x: &x,
                quantized: Some(&quantized),
                tokens: Some(&tokens[..m]),
                out,
            })
            .collect();
        matmul(&mut jobs);
        outs.concat()
    };
    let expected = run(&|jobs| reference::matmul(jobs).unwrap());
    for cpu in cpus() {
        assert_same(
            "jobs",
            &cpu,
            &run(&|jobs| cpu.matmul(jobs).unwrap()),
            &expected,
        );
    }
}

#[test]
fn tokens_at_once_equal_tokens_one_by_one() {
    for codec in [
        Codec::Affine { bits: 4, group: 64 },
        Codec::Affine { bits: 6, group: 64 },
        Codec::Bf16,
    ] {
        let mut random = Random(11);
        let weights = Weights::new(&mut random, codec, 50, 640, Kind::Plain);
        let x = random.floats(13 * 640);
        for cpu in cpus() {
            let multiply = |x: &[f32]| {
                let n = x.len() / 640;
                let mut quantized = Quantized::default();
                quantized.quantize(&cpu, x, n, 640, 64).unwrap();
                let mut out = vec![0.0; n * 50];
                let job = MatmulJob {
                    weights: weights.matrix(),
                    x,
                    quantized: Some(&quantized),
                    tokens: None,
                    out: &mut out,
                };
                cpu.matmul(&mut [job]).unwrap();
                out
            };
            let single: Vec<f32> = x.chunks(640).flat_map(multiply).collect();
            assert_same("batch", &cpu, &multiply(&x), &single);
        }
    }
}

#[test]
fn decoded_rows() {
    let mut codecs = vec![Codec::F32, Codec::F16, Codec::Bf16];
    for bits in BITS {
        codecs.extend(GROUPS.map(|group| Codec::Affine { bits, group }));
    }
    for codec in codecs {
        let cols = if matches!(codec, Codec::Affine { .. }) {
            384
        } else {
            37
        };
        let weights = Weights::new(&mut Random(5), codec, 3, cols, Kind::Mixed);
        for row in 0..3 {
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
    for bits in BITS {
        let codec = Codec::Affine { bits, group: 64 };
        let mut random = Random(2);
        let weights = Weights::new(&mut random, codec, 64, 1024, Kind::Plain);
        let x = random.floats(4 * 1024);
        let cpu = Cpu::new(Isa::detect(), 2).unwrap();
        let mut quantized = Quantized::default();
        quantized.quantize(&cpu, &x, 4, 1024, 64).unwrap();
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
        assert!(error < 1e-2, "{bits} bits: {error}");
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
    let weights = Weights::new(
        &mut random,
        Codec::Affine { bits: 4, group: 32 },
        20,
        64,
        Kind::Plain,
    );
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut x = random.floats(3 * 64);
        x[64 + 5] = bad;
        for cpu in cpus() {
            let mut quantized = Quantized::default();
            quantized.quantize(&cpu, &x, 3, 64, 32).unwrap();
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
    let affine = |bits, group, scales| MatrixData::Affine {
        bits,
        group,
        weights: &bytes,
        scales,
        biases: &maps,
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
            .quantize(&cpu, &[0.0; 64], 1, 64, 48)
            .is_err()
    );
    assert!(
        Quantized::default()
            .quantize(&cpu, &[0.0; 64], 1, 48, 32)
            .is_err()
    );
}
