//! Every operation but matrix products: all instruction sets and thread counts against the
//! reference, bit for bit.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use common::{Random, assert_same, cpus, kind};
use moeflux_kernels::{Cpu, Glu, Isa, KernelError, RopeStyle, reference};
use proptest::prelude::*;

/// An operation on one processor.
type Run<'a> = &'a dyn Fn(&Cpu, &mut [f32]) -> Result<(), KernelError>;

/// Runs an operation with the reference and every processor and compares the outputs.
fn compare(
    what: &str,
    len: usize,
    expected: &dyn Fn(&mut [f32]) -> Result<(), KernelError>,
    run: Run<'_>,
) {
    let mut wanted = vec![0.5; len];
    expected(&mut wanted).unwrap();
    for cpu in cpus() {
        let mut out = vec![1.5; len];
        run(&cpu, &mut out).unwrap();
        assert_same(what, &cpu, &out, &wanted);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn norms(seed: u64, rows in 0usize..6, dim in 1usize..300, x_kind in 0usize..14) {
        let mut random = Random(seed);
        let x = random.values(kind(x_kind), rows * dim);
        let (gate, weight) = (random.values(kind(x_kind), rows * dim), random.floats(dim));
        compare("rms_norm", x.len(), &|out| reference::rms_norm(&x, &weight, 1e-6, out), &|cpu, out| {
            cpu.rms_norm(&x, &weight, 1e-6, out)
        });
        compare(
            "rms_norm_gated",
            x.len(),
            &|out| reference::rms_norm_gated(&x, &gate, &weight, 1e-6, out),
            &|cpu, out| cpu.rms_norm_gated(&x, &gate, &weight, 1e-6, out),
        );
    }

    #[test]
    fn gated_activations(
        seed: u64, len in 0usize..400, limit in 0.1f32..5.0, x_kind in 0usize..14,
    ) {
        let mut random = Random(seed);
        let [gate, up] = [(); 2].map(|()| random.values(kind(x_kind), len));
        let clamped = Glu::Clamped { limit, alpha: 1.702, offset: 1.0 };
        for rule in [Glu::Silu, clamped] {
            compare("glu", len, &|out| reference::glu(&gate, &up, rule, out), &|cpu, out| {
                cpu.glu(&gate, &up, rule, out)
            });
        }
    }

    #[test]
    fn biases_in_place(seed: u64, rows in 0usize..40, dim in 1usize..300, x_kind in 0usize..14) {
        let mut random = Random(seed);
        let (x, bias) = (random.values(kind(x_kind), rows * dim), random.floats(dim));
        let start = |out: &mut [f32]| out.copy_from_slice(&x);
        let expected = |out: &mut [f32]| {
            start(out);
            reference::add_to_rows(out, &bias)
        };
        compare("add_to_rows", x.len(), &expected, &|cpu, out| {
            start(out);
            cpu.add_to_rows(out, &bias)
        });
    }

    #[test]
    fn rotations(
        seed: u64, n in 0usize..5, heads in 1usize..4, head_dim in 2usize..150, share in 0usize..5,
        interleaved: bool, x_kind in 0usize..14,
    ) {
        let mut random = Random(seed);
        let x = random.values(kind(x_kind), n * heads * head_dim);
        let pairs = head_dim / 2 * share / 4;
        let inv_freq: Vec<f32> = (0..pairs).map(|_| random.unit().abs()).collect();
        let positions: Vec<u32> = (0..n).map(|_| random.below(1 << 20) as u32).collect();
        let style = if interleaved { RopeStyle::Interleaved } else { RopeStyle::HalfSplit };
        compare(
            "rope",
            x.len(),
            &|out| {
                reference::rope(&x, &positions, heads, head_dim, &inv_freq, 1.25, style, out)
            },
            &|cpu, out| cpu.rope(&x, &positions, heads, head_dim, &inv_freq, 1.25, style, out),
        );
    }

    #[test]
    fn element_by_element(seed: u64, len in 0usize..200, long: bool, x_kind in 0usize..14) {
        let mut random = Random(seed);
        let len = if long { len + 50_000 } else { len };
        let (a, b) = (random.values(kind(x_kind), len), random.values(kind(x_kind), len));
        let scaled: Vec<f32> = a.iter().map(|a| a * 30.0).collect();
        compare("swiglu", len, &|out| reference::swiglu(&scaled, &b, out), &|cpu, out| {
            cpu.swiglu(&scaled, &b, out)
        });
        compare("sigmoid_mul", len, &|out| reference::sigmoid_mul(&b, &scaled, out), &|cpu, out| {
            cpu.sigmoid_mul(&b, &scaled, out)
        });
        compare("add", len, &|out| reference::add(&a, &b, out), &|cpu, out| cpu.add(&a, &b, out));
    }

    #[test]
    fn row_by_row(seed: u64, n in 0usize..6, d in 1usize..100, x_kind in 0usize..14) {
        let mut random = Random(seed);
        let (x, gate) = (random.values(kind(x_kind), n * d), random.values(kind(x_kind), n));
        compare("scale", n * d, &|out| reference::scale_by_sigmoid(&x, &gate, out), &|cpu, out| {
            cpu.scale_by_sigmoid(&x, &gate, out)
        });
        let heads = 1 + random.below(3);
        let x = random.floats(n * heads * 2 * d);
        compare(
            "split",
            x.len(),
            &|out| {
                let (first, second) = out.split_at_mut(n * heads * d);
                reference::split_pairs(&x, heads, d, first, second)
            },
            &|cpu, out| {
                let (first, second) = out.split_at_mut(n * heads * d);
                cpu.split_pairs(&x, heads, d, first, second)
            },
        );
    }

    #[test]
    fn combinations(seed: u64, n in 0usize..6, count in 1usize..9, d in 1usize..1200) {
        let mut random = Random(seed);
        let rows = random.floats(count * d);
        let (mut offsets, mut entries) = (vec![0], vec![]);
        for _ in 0..n {
            for _ in 0..random.below(5) {
                entries.push((random.below(count) as u32, random.unit()));
            }
            offsets.push(entries.len() as u32);
        }
        compare(
            "combine",
            n * d,
            &|out| reference::combine(&rows, &offsets, &entries, d, out),
            &|cpu, out| cpu.combine(&rows, &offsets, &entries, d, out),
        );
    }

    #[test]
    fn routes(
        seed: u64, n in 0usize..6, experts in 1usize..130, top_k in 0usize..12, renormalize: bool,
        x_kind in 0usize..14, coarse: bool,
    ) {
        let mut random = Random(seed);
        let top_k = top_k.min(experts);
        let mut logits = random.values(kind(x_kind), n * experts);
        if coarse {
            // Many ties.
            logits.iter_mut().for_each(|x| *x = (*x * 3.0).round());
        }
        let (mut ids, mut weights) = (vec![0; n * top_k], vec![0.0; n * top_k]);
        reference::route(&logits, experts, top_k, renormalize, &mut ids, &mut weights).unwrap();
        for cpu in cpus() {
            let (mut got, mut out) = (vec![7; n * top_k], vec![0.0; n * top_k]);
            cpu.route(&logits, experts, top_k, renormalize, &mut got, &mut out).unwrap();
            prop_assert_eq!(&got, &ids);
            assert_same("route", &cpu, &out, &weights);
        }
    }
}

#[test]
fn ties_go_to_the_lowest_id_and_weights_sum_to_one() {
    let cpu = Cpu::new(Isa::detect(), 1).unwrap();
    let (mut ids, mut weights) = ([0; 3], [0.0; 3]);
    let logits = [1.0, 2.0, 0.0, 2.0, 2.0];
    cpu.route(&logits, 5, 3, true, &mut ids, &mut weights)
        .unwrap();
    assert_eq!(ids, [1, 3, 4]);
    assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-6);
    cpu.route(
        &[0.0, f32::NAN, 1.0],
        3,
        2,
        false,
        &mut ids[..2],
        &mut weights[..2],
    )
    .unwrap();
    assert_eq!(ids[..2], [0, 1]);
    assert!(weights[..2].iter().all(|w| w.is_nan()));
}

#[test]
fn norm_and_rope_do_what_they_say() {
    let cpu = Cpu::new(Isa::detect(), 1).unwrap();
    let mut out = [0.0; 4];
    cpu.rms_norm(
        &[3.0, -3.0, 3.0, -3.0],
        &[1.0, 1.0, 2.0, 2.0],
        0.0,
        &mut out,
    )
    .unwrap();
    assert_eq!(out, [1.0, -1.0, 2.0, -2.0]);
    // A quarter turn of (1, 2) is (-2, 1).
    let quarter = [std::f32::consts::FRAC_PI_2];
    let x = [1.0, 2.0, 5.0, 6.0];
    cpu.rope(
        &x,
        &[1],
        1,
        4,
        &quarter,
        1.0,
        RopeStyle::HalfSplit,
        &mut out,
    )
    .unwrap();
    for (got, expected) in out.iter().zip([-2.0, 1.0, 5.0, 6.0]) {
        assert!((got - expected).abs() < 1e-6, "{out:?}");
    }
    let two = [std::f32::consts::FRAC_PI_2, 0.0];
    cpu.rope(&x, &[1], 1, 4, &two, 1.0, RopeStyle::HalfSplit, &mut out)
        .unwrap();
    for (got, expected) in out.iter().zip([-5.0, 2.0, 1.0, 6.0]) {
        assert!((got - expected).abs() < 1e-6, "{out:?}");
    }
    cpu.rope(&x, &[1], 1, 4, &two, 1.0, RopeStyle::Interleaved, &mut out)
        .unwrap();
    for (got, expected) in out.iter().zip([-2.0, 1.0, 5.0, 6.0]) {
        assert!((got - expected).abs() < 1e-6, "{out:?}");
    }
}

#[test]
fn wrong_sizes_are_errors() {
    let cpu = Cpu::new(Isa::Scalar, 1).unwrap();
    let mut out = [0.0; 4];
    assert!(cpu.rms_norm(&[0.0; 4], &[1.0; 3], 0.0, &mut out).is_err());
    assert!(cpu.rms_norm(&[0.0; 4], &[], 0.0, &mut out).is_err());
    assert!(
        cpu.rms_norm_gated(&[0.0; 4], &[0.0; 3], &[1.0; 4], 0.0, &mut out)
            .is_err()
    );
    assert!(cpu.swiglu(&[0.0; 4], &[0.0; 3], &mut out).is_err());
    assert!(cpu.add(&[0.0; 3], &[0.0; 4], &mut out).is_err());
    assert!(
        cpu.scale_by_sigmoid(&[0.0; 4], &[0.0; 3], &mut out)
            .is_err()
    );
    assert!(cpu.scale_by_sigmoid(&[0.0; 4], &[], &mut out).is_err());
    let frequencies = [0.0; 3];
    let rope = cpu.rope(
        &[0.0; 4],
        &[1],
        1,
        4,
        &frequencies,
        1.0,
        RopeStyle::HalfSplit,
        &mut out,
    );
    assert!(matches!(rope, Err(KernelError::Index { .. })));
    let (mut ids, mut weights) = ([0; 4], [0.0; 4]);
    assert!(
        cpu.route(&[0.0; 3], 3, 4, true, &mut ids, &mut weights)
            .is_err()
    );
    assert!(cpu.route(&[], 0, 0, true, &mut [], &mut []).is_err());
    let combine = |offsets: &[u32], entries: &[(u32, f32)]| {
        Cpu::new(Isa::Scalar, 1)
            .unwrap()
            .combine(&[0.0; 4], offsets, entries, 2, &mut [0.0; 2])
    };
    assert!(combine(&[0, 1], &[(1, 1.0)]).is_ok());
    assert!(combine(&[0, 2], &[(1, 1.0)]).is_err());
    assert!(combine(&[1, 0], &[(1, 1.0)]).is_err());
    assert!(combine(&[0, 1], &[(2, 1.0)]).is_err());
}

#[test]
fn names_and_availability() {
    for isa in Isa::available() {
        assert_eq!(isa.to_string().parse::<Isa>().unwrap(), isa);
        assert_eq!(Cpu::new(isa, 2).unwrap().isa(), isa);
    }
    assert_eq!(Isa::available()[0], Isa::Scalar);
    assert!(matches!(
        "sse".parse::<Isa>(),
        Err(KernelError::IsaUnknown { .. })
    ));
    let foreign = if cfg!(target_arch = "aarch64") {
        Isa::Avx2
    } else {
        Isa::Neon
    };
    assert!(matches!(
        Cpu::new(foreign, 1),
        Err(KernelError::IsaUnavailable { .. })
    ));
}
