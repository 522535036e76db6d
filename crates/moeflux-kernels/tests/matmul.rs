//! Matrix products and quantization: every instruction set and thread count against
//! the reference, bit for bit.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use common::{Codec, Kind, Random, Weights, affine, assert_same, codings, cpus, kind};
use moeflux_kernels::{Coding, MatmulJob, Quantized, Rounding, reference};
use proptest::prelude::*;

const GROUPS: [usize; 4] = [16, 32, 64, 128];

const fn rounding(group: usize) -> Rounding {
    Rounding { group, zero: 0 }
}

/// One product with every processor against the reference.
fn compare(weights: &Weights, x: &[f32], tokens: Option<&[u32]>, quantize: bool) {
    let matrix = weights.matrix();
    let n = x.len() / weights.cols;
    let m = tokens.map_or(n, <[u32]>::len);
    let quantized = match matrix.rounding() {
        Some(rounding) if quantize => {
            Some(reference::quantize(x, n, weights.cols, rounding).unwrap())
        }
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
    fn coded_weights(
        seed: u64, coding in 0usize..23, rows in 1usize..40, groups in 1usize..12,
        n in 1usize..25, w_kind in 0usize..14, x_kind in 0usize..14, quantize: bool,
    ) {
        let mut random = Random(seed);
        let coding = codings()[coding];
        let cols = match coding {
            Coding::Affine { group, .. } => groups * group,
            Coding::Q4_0 | Coding::Q8_0 => groups * 32,
            _ => groups.div_ceil(3) * 256,
        };
        let weights = Weights::new(&mut random, Codec::Coded(coding), rows, cols, kind(w_kind));
        let x = random.values(kind(x_kind), n * cols);
        compare(&weights, &x, None, quantize);
    }

    #[test]
    fn chosen_tokens(seed: u64, n in 1usize..9, m in 0usize..9, quantize: bool) {
        let mut random = Random(seed);
        let codec = affine(4, 32);
        let weights = Weights::new(&mut random, codec, 17, 64, Kind::Plain);
        let x = random.floats(n * 64);
        let tokens: Vec<u32> = (0..m).map(|_| random.below(n) as u32).collect();
        compare(&weights, &x, Some(&tokens), quantize);
    }

    #[test]
    fn quantization(
        seed: u64, group in 0usize..4, groups in 1usize..5, n in 1usize..5, x_kind in 0usize..7,
    ) {
        let mut random = Random(seed);
        let cols = groups * GROUPS[group];
        let x = random.values(kind(x_kind), n * cols);
        let expected = reference::quantize(&x, n, cols, rounding(GROUPS[group])).unwrap();
        for cpu in cpus() {
            let mut quantized = Quantized::default();
            // Leftovers of another call must not shine through.
            quantized.quantize(&cpu, &[1.0; 256], 2, 128, rounding(64)).unwrap();
            quantized.quantize(&cpu, &x, n, cols, rounding(GROUPS[group])).unwrap();
            prop_assert_eq!(quantized.values(), expected.values());
            assert_same("scales", &cpu, quantized.scales(), expected.scales());
            assert_same("sums", &cpu, quantized.sums(), expected.sums());
        }
    }
}

#[test]
fn every_coding_with_the_greatest_integers() {
    for coding in codings() {
        let codec = Codec::Coded(coding);
        let mut weights = Weights::new(&mut Random(1), codec, 18, 3 * 256, Kind::Plain);
        let halves = common::plain::half_places(coding);
        for (at, byte) in weights.rows_of_bytes.iter_mut().enumerate() {
            let in_half = halves.is_some_and(|(block, places)| {
                places.iter().any(|place| at % block / 2 == place / 2)
            });
            if !in_half {
                *byte = 0xff;
            }
        }
        weights.arrange();
        for n in [1, 2, 9, 14] {
            for sign in [1.0, -1.0] {
                compare(&weights, &vec![sign; n * 3 * 256], None, true);
            }
        }
    }
}

#[test]
fn shapes_of_real_layers() {
    for (codec, rows, cols) in [
        (affine(4, 64), 131, 2048),
        (affine(8, 64), 1, 2048),
        (affine(4, 64), 64, 512),
        (affine(4, 128), 64, 768),
        (Codec::Coded(Coding::Q4_0), 67, 2048),
        (Codec::Coded(Coding::Q8_0), 35, 1024),
        (Codec::Coded(Coding::Q4K), 64, 2048),
        (Codec::Coded(Coding::Q6K), 40, 512),
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
        affine(4, 32),
        Codec::Bf16,
        affine(8, 32),
        Codec::F32,
        affine(3, 32),
    ];
    let shapes: Vec<_> = (0..20)
        .map(|i| (codecs[i % 5], 1 + random.below(70), 1 + i % 4))
        .collect();
    let weights: Vec<Weights> = shapes
        .iter()
        .map(|&(codec, rows, _)| Weights::new(&mut random, codec, rows, 96, Kind::Plain))
        .collect();
    let x = random.floats(4 * 96);
    let quantized = reference::quantize(&x, 4, 96, rounding(32)).unwrap();
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
    for codec in [affine(4, 64), affine(6, 64), Codec::F16, Codec::Bf16] {
        let mut random = Random(11);
        let weights = Weights::new(&mut random, codec, 50, 640, Kind::Plain);
        let x = random.floats(19 * 640);
        for cpu in cpus() {
            let multiply = |x: &[f32]| {
                let n = x.len() / 640;
                let mut quantized = Quantized::default();
                quantized.quantize(&cpu, x, n, 640, rounding(64)).unwrap();
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
