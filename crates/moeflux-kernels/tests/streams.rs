//! Residual streams, norms without weights, rotation of last elements and experts by token: all
//! instruction sets and thread counts against the reference.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use common::{Random, assert_same, cpus, kind};
use moeflux_kernels::{Cpu, GroupedRouting, KernelError, RopeStyle, Scores, StreamRule, reference};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn streams(
        seed: u64, n in 1usize..20, streams in 1usize..6, dim in 1usize..300,
        iterations in 0usize..21, x_kind in 0usize..14,
    ) {
        let random = &mut Random(seed);
        let rule = StreamRule { streams, iterations, eps: 1e-6 };
        let projected = random.values(kind(x_kind), n * rule.width());
        let (scale, base) = (random.floats(rule.scales()), random.floats(rule.width()));
        let (x, block) = (random.floats(n * streams * dim), random.floats(n * dim));
        let run = |cpu: Option<&Cpu>| {
            let mut weights = vec![5.0; n * rule.width()];
            let (mut one, mut all) = (vec![5.0; n * dim], vec![5.0; x.len()]);
            match cpu {
                Some(cpu) => {
                    cpu.stream_weights(&projected, &scale, &base, rule, &mut weights).unwrap();
                    cpu.collapse_streams(&x, &weights, rule, &mut one).unwrap();
                }
                None => {
                    reference::stream_weights(&projected, &scale, &base, rule, &mut weights)
                        .unwrap();
                    reference::collapse_streams(&x, &weights, rule, &mut one).unwrap();
                }
            }
            match cpu {
                _ if iterations == 0 => {}
                Some(cpu) => cpu.spread_streams(&x, &block, &weights, rule, &mut all).unwrap(),
                None => {
                    reference::spread_streams(&x, &block, &weights, rule, &mut all).unwrap();
                }
            }
            [weights, one, all].concat()
        };
        let expected = run(None);
        for cpu in cpus() {
            assert_same("streams", &cpu, &run(Some(&cpu)), &expected);
        }
    }

    #[test]
    fn means_and_layer_norms(
        seed: u64, n in 0usize..20, streams in 1usize..6, dim in 1usize..300, x_kind in 0usize..14,
    ) {
        let random = &mut Random(seed);
        let x = random.values(kind(x_kind), n * streams * dim);
        let (weight, bias) = (random.floats(dim), random.floats(dim));
        let run = |cpu: Option<&Cpu>| {
            let (mut mean, mut normed) = (vec![5.0; n * dim], vec![5.0; x.len()]);
            let out = (&mut mean, &mut normed);
            match cpu {
                Some(cpu) => {
                    cpu.mean_streams(&x, streams, dim, out.0).unwrap();
                    cpu.layer_norm(&x, &weight, &bias, 1e-6, out.1).unwrap();
                }
                None => {
                    reference::mean_streams(&x, streams, dim, out.0).unwrap();
                    reference::layer_norm(&x, &weight, &bias, 1e-6, out.1).unwrap();
                }
            }
            [mean, normed].concat()
        };
        let expected = run(None);
        for cpu in cpus() {
            assert_same("mean and layer norm", &cpu, &run(Some(&cpu)), &expected);
        }
    }

    #[test]
    fn norms_and_rotations(
        seed: u64, n in 1usize..9, heads in 1usize..5, half in 1usize..40, plain in 0usize..60,
        x_kind in 0usize..14,
    ) {
        let random = &mut Random(seed);
        let dim = 2 * half + plain;
        let x = random.values(kind(x_kind), n * heads * dim);
        let inv_freq = random.floats(half);
        let positions: Vec<u32> = (0..n as u32).map(|t| 900 + t).collect();
        let run = |cpu: Option<&Cpu>| {
            let style = RopeStyle::InterleavedTail;
            let (mut normed, mut turned) = (vec![5.0; x.len()], vec![5.0; x.len()]);
            let out = (&mut normed, &mut turned);
            match cpu {
                Some(cpu) => {
                    cpu.rms_normalize(&x, dim, 1e-6, out.0).unwrap();
                    cpu.rope(&x, &positions, heads, dim, &inv_freq, 1.5, style, out.1).unwrap();
                }
                None => {
                    reference::rms_normalize(&x, dim, 1e-6, out.0).unwrap();
                    reference::rope(&x, &positions, heads, dim, &inv_freq, 1.5, style, out.1)
                        .unwrap();
                }
            }
            [normed, turned].concat()
        };
        let expected = run(None);
        for cpu in cpus() {
            assert_same("norm and rotation", &cpu, &run(Some(&cpu)), &expected);
        }
    }

    #[test]
    fn experts_by_token(
        seed: u64, n in 1usize..40, experts in 1usize..60, vocab in 1usize..30, scores in 0usize..3,
        renormalize: bool, x_kind in 0usize..14,
    ) {
        let random = &mut Random(seed);
        let scores = [Scores::Sigmoid, Scores::Softmax, Scores::SqrtSoftplus][scores];
        let top_k = 1 + seed as usize % experts.min(6);
        let rule = GroupedRouting {
            experts, top_k, groups: 1, kept_groups: 1, scores, renormalize, scale: 1.5,
        };
        let logits = random.values(kind(x_kind), n * experts);
        let tokens: Vec<u32> = (0..n).map(|t| (t * 7 % vocab) as u32).collect();
        let table: Vec<f32> = (0..vocab * top_k).map(|i| (i * 5 % experts) as f32).collect();
        let run = |cpu: Option<&Cpu>| {
            let (mut ids, mut weights) = (vec![9; n * top_k], vec![5.0; n * top_k]);
            let out = (&mut ids, &mut weights);
            match cpu {
                Some(cpu) => {
                    cpu.route_by_token(&logits, &tokens, &table, &rule, out.0, out.1).unwrap();
                }
                None => {
                    reference::route_by_token(&logits, &tokens, &table, &rule, out.0, out.1)
                        .unwrap();
                }
            }
            (ids, weights)
        };
        let (ids, weights) = run(None);
        for cpu in cpus() {
            let found = run(Some(&cpu));
            prop_assert_eq!(&found.0, &ids);
            assert_same("route_by_token", &cpu, &found.1, &weights);
        }
    }
}

#[test]
fn an_expert_or_a_token_that_is_not_there_is_refused() {
    let rule = GroupedRouting {
        experts: 3,
        top_k: 1,
        groups: 1,
        kept_groups: 1,
        scores: Scores::SqrtSoftplus,
        renormalize: true,
        scale: 1.0,
    };
    let cpu = &cpus()[0];
    for (token, table) in [(2, [0.0, 1.0]), (1, [0.0, 3.0])] {
        let (mut ids, mut weights) = ([0], [0.0]);
        let refused =
            cpu.route_by_token(&[1.0; 3], &[token], &table, &rule, &mut ids, &mut weights);
        assert!(
            matches!(refused, Err(KernelError::Index { .. })),
            "{refused:?}"
        );
    }
}

/// Columns sum to one exactly, rows nearly, and a stream keeps its size.
#[test]
fn mixing_is_doubly_stochastic() {
    let rule = StreamRule {
        streams: 4,
        iterations: 20,
        eps: 1e-6,
    };
    let random = &mut Random(3);
    let projected = random.floats(rule.width());
    let (scale, base) = (random.floats(3), random.floats(rule.width()));
    let mut weights = vec![0.0; rule.width()];
    cpus()[0]
        .stream_weights(&projected, &scale, &base, rule, &mut weights)
        .unwrap();
    let mixing = &weights[8..];
    for i in 0..4 {
        let row: f32 = mixing[4 * i..][..4].iter().sum();
        let column: f32 = mixing.iter().skip(i).step_by(4).sum();
        assert!(
            (row - 1.0).abs() < 1e-3 && (column - 1.0).abs() < 1e-4,
            "{row} {column}"
        );
    }
}
