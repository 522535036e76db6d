//! The operations with a state: all instruction sets and thread counts against the
//! reference, and one call against several.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use common::{Kind, Random, assert_same, cpus, kind};
use moeflux_kernels::{
    ConvSpan, Cpu, Decay, DeltaShape, DeltaSpan, HeadOrder, Isa, KernelError, reference,
};
use proptest::prelude::*;

/// Runs an operation over spans of the given lengths; gives all its outputs, one after another.
type Run<'a> = &'a dyn Fn(Option<&Cpu>, &[usize]) -> Vec<f32>;

fn compare(what: &str, lengths: &[usize], run: Run<'_>) {
    let expected = run(None, lengths);
    for cpu in cpus() {
        assert_same(what, &cpu, &run(Some(&cpu), lengths), &expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn convolutions(
        seed: u64, kernel in 1usize..5, channels in 1usize..300,
        lengths in proptest::collection::vec(1usize..6, 0..4), x_kind in 0usize..14,
    ) {
        compare("conv1d_silu", &lengths, &|cpu, lengths| {
            let mut random = Random(seed);
            let weight = random.floats(kernel * channels);
            let data: Vec<[Vec<f32>; 2]> = lengths
                .iter()
                .map(|n| [n * channels, (kernel - 1) * channels].map(|len| random.values(kind(x_kind), len)))
                .collect();
            let mut outputs: Vec<[Vec<f32>; 2]> =
                data.iter().map(|[x, state]| [vec![5.0; x.len()], vec![5.0; state.len()]]).collect();
            let mut spans: Vec<ConvSpan<'_>> = data
                .iter()
                .zip(&mut outputs)
                .map(|([x, state], [out, next_state])| ConvSpan { x, state, next_state, out })
                .collect();
            match cpu {
                Some(cpu) => cpu.conv1d_silu(&mut spans, &weight, channels).unwrap(),
                None => reference::conv1d_silu(&mut spans, &weight, channels).unwrap(),
            }
            outputs.concat().concat()
        });
    }

    #[test]
    fn delta_rule(
        seed: u64, key_heads in 1usize..4, times in 1usize..4, key_dim in 1usize..70,
        value_dim in 1usize..150, decay in 0usize..3,
        lengths in proptest::collection::vec(1usize..70, 0..3),
        x_kind in 0usize..14, tiled: bool,
    ) {
        let head_order = if tiled { HeadOrder::Tiled } else { HeadOrder::Grouped };
        let value_heads = key_heads * times;
        let decay = [Decay::Head, Decay::Key, Decay::BoundedKey(-5.0)][decay];
        let shape = DeltaShape { key_heads, value_heads, key_dim, value_dim, head_order, decay };
        compare("gated_delta", &lengths, &|cpu, lengths| {
            let (outputs, states) = run_delta(cpu, &mut Random(seed), shape, lengths, kind(x_kind));
            [outputs.concat(), states.concat()].concat()
        });
    }

}

/// Outputs and states of the delta rule over random spans.
fn run_delta(
    cpu: Option<&Cpu>,
    random: &mut Random,
    shape: DeltaShape,
    lengths: &[usize],
    kind: Kind,
) -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
    let DeltaShape {
        key_heads,
        value_heads,
        key_dim,
        value_dim,
        ..
    } = shape;
    let width = 2 * key_heads * key_dim + value_heads * value_dim;
    let decays = value_heads * shape.head_decays();
    let (a_log, dt_bias) = (random.floats(value_heads), random.floats(decays));
    let state_len = value_heads * key_dim * value_dim;
    let data: Vec<[Vec<f32>; 4]> = lengths
        .iter()
        .map(|n| {
            [n * width, n * decays, n * value_heads, state_len].map(|len| random.values(kind, len))
        })
        .collect();
    let mut outputs: Vec<Vec<f32>> = lengths
        .iter()
        .map(|n| vec![5.0; n * value_heads * value_dim])
        .collect();
    let mut states: Vec<Vec<f32>> = lengths.iter().map(|_| vec![5.0; state_len]).collect();
    let mut spans: Vec<DeltaSpan<'_>> = data
        .iter()
        .zip(outputs.iter_mut().zip(&mut states))
        .map(|([qkv, a, b, state], (out, next_state))| DeltaSpan {
            qkv,
            a,
            b,
            state,
            next_state,
            out,
        })
        .collect();
    match cpu {
        Some(cpu) => cpu
            .gated_delta(&mut spans, shape, &a_log, &dt_bias)
            .unwrap(),
        None => reference::gated_delta(&mut spans, shape, &a_log, &dt_bias).unwrap(),
    }
    (outputs, states)
}

#[test]
fn delta_rule_in_two_calls_equals_one() {
    let shape = DeltaShape {
        key_heads: 1,
        value_heads: 2,
        key_dim: 24,
        value_dim: 80,
        head_order: HeadOrder::Grouped,
        decay: Decay::Head,
    };
    let mut random = Random(1);
    let width = 2 * 24 + 2 * 80;
    let n = 6;
    let (qkv, a, b) = (
        random.floats(n * width),
        random.floats(n * 2),
        random.floats(n * 2),
    );
    let (a_log, dt_bias, state) = (
        random.floats(2),
        random.floats(2),
        random.floats(2 * 24 * 80),
    );
    for cpu in cpus() {
        let run = |from: usize, to: usize, state: &[f32]| {
            let (mut next_state, mut out) = (vec![0.0; state.len()], vec![0.0; (to - from) * 160]);
            let span = DeltaSpan {
                qkv: &qkv[from * width..to * width],
                a: &a[from * 2..to * 2],
                b: &b[from * 2..to * 2],
                state,
                next_state: &mut next_state,
                out: &mut out,
            };
            cpu.gated_delta(&mut [span], shape, &a_log, &dt_bias)
                .unwrap();
            (next_state, out)
        };
        let (all_state, all) = run(0, n, &state);
        let (middle, first) = run(0, 2, &state);
        let (end, second) = run(2, n, &middle);
        assert_same("state", &cpu, &end, &all_state);
        assert_same("out", &cpu, &[first, second].concat(), &all);
    }
}

#[test]
fn large_states_are_streamed_with_the_same_bits() {
    let shape = |value_dim| DeltaShape {
        key_heads: 4,
        value_heads: 16,
        key_dim: 128,
        value_dim,
        head_order: HeadOrder::Tiled,
        decay: Decay::Head,
    };
    for (lengths, value_dim) in [(vec![1], 128), (vec![2, 1], 128), (vec![1, 3], 212)] {
        compare("gated_delta", &lengths, &|cpu, lengths| {
            let shape = shape(value_dim);
            let (outputs, states) = run_delta(cpu, &mut Random(5), shape, lengths, Kind::Plain);
            [outputs.concat(), states.concat()].concat()
        });
    }
}

/// Value heads in one order are those in the other, moved.
#[test]
fn tiled_heads_are_grouped_heads_moved() {
    let shape = |head_order| DeltaShape {
        key_heads: 2,
        value_heads: 6,
        key_dim: 8,
        value_dim: 16,
        head_order,
        decay: Decay::Head,
    };
    // Key head 0 feeds heads 0, 1, 2 when grouped and 0, 2, 4 when tiled.
    let grouped_head = |tiled: usize| tiled % 2 * 3 + tiled / 2;
    let mut random = Random(3);
    let (keys, values) = (random.floats(32), random.floats(96));
    let [a, b, a_log, dt_bias] = [(); 4].map(|()| random.floats(6));
    let state = random.floats(6 * 128);
    let moved = |x: &[f32], width: usize| -> Vec<f32> {
        let head = |h| &x[grouped_head(h) * width..][..width];
        (0..6).flat_map(head).copied().collect()
    };
    let cpu = Cpu::new(Isa::detect(), 1).unwrap();
    let run = |order, v: &[f32], heads: [&[f32]; 4], state: &[f32]| {
        let (mut next_state, mut out) = (vec![0.0; state.len()], vec![0.0; 96]);
        let [a, b, a_log, dt_bias] = heads;
        let span = DeltaSpan {
            qkv: &[&keys, v].concat(),
            a,
            b,
            state,
            next_state: &mut next_state,
            out: &mut out,
        };
        cpu.gated_delta(&mut [span], shape(order), a_log, dt_bias)
            .unwrap();
        (next_state, out)
    };
    let heads = [&a[..], &b, &a_log, &dt_bias];
    let (next_state, out) = run(HeadOrder::Grouped, &values, heads, &state);
    let heads = [&a, &b, &a_log, &dt_bias].map(|x| moved(x, 1));
    let heads = [&heads[0][..], &heads[1], &heads[2], &heads[3]];
    let (v, state) = (moved(&values, 16), moved(&state, 128));
    let (tiled_state, tiled) = run(HeadOrder::Tiled, &v, heads, &state);
    assert_eq!(tiled, moved(&out, 16));
    assert_eq!(tiled_state, moved(&next_state, 128));
}

#[test]
fn wrong_sizes_are_errors() {
    let cpu = Cpu::new(Isa::Scalar, 1).unwrap();
    let delta = DeltaShape {
        key_heads: 2,
        value_heads: 3,
        key_dim: 1,
        value_dim: 1,
        head_order: HeadOrder::Grouped,
        decay: Decay::Head,
    };
    assert!(matches!(
        cpu.gated_delta(&mut [], delta, &[0.0; 3], &[0.0; 3]),
        Err(KernelError::Shape { .. })
    ));
    let empty = ConvSpan {
        x: &[],
        state: &[0.0; 2],
        next_state: &mut [0.0; 2],
        out: &mut [],
    };
    assert!(cpu.conv1d_silu(&mut [empty], &[0.0; 4], 2).is_err());
}
