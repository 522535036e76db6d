//! Operations with state, attention included: all instruction sets and thread counts against the
//! reference, and one call against several.

mod common;

use common::{Kind, Random, assert_same, cpus, kind};
use moeflux_kernels::{
    AttentionShape, AttentionSpan, ConvSpan, Cpu, DeltaShape, DeltaSpan, Isa, KV_PAGE_TOKENS,
    KernelError, KvPage, reference,
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
        seed: u64, key_heads in 1usize..3, times in 1usize..3, key_dim in 1usize..70,
        value_dim in 1usize..150, lengths in proptest::collection::vec(1usize..5, 0..3),
        x_kind in 0usize..14,
    ) {
        let shape = DeltaShape { key_heads, value_heads: key_heads * times, key_dim, value_dim };
        compare("gated_delta", &lengths, &|cpu, lengths| {
            let (outputs, states) = run_delta(cpu, &mut Random(seed), shape, lengths, kind(x_kind));
            [outputs.concat(), states.concat()].concat()
        });
    }

    #[test]
    fn attentions(
        seed: u64, kv_heads in 1usize..3, group in 1usize..4, head_dim in 1usize..150,
        spans in proptest::collection::vec((1usize..4, 0usize..200), 0..3), x_kind in 0usize..14,
    ) {
        let shape = AttentionShape { heads: kv_heads * group, kv_heads, head_dim, scale: 0.3 };
        let lengths: Vec<usize> = spans.iter().map(|span| span.0).collect();
        compare("attention", &lengths, &|cpu, _| {
            run_attention(cpu, &mut Random(seed), shape, &spans, kind(x_kind)).concat()
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
    } = shape;
    let width = 2 * key_heads * key_dim + value_heads * value_dim;
    let (a_log, dt_bias) = (random.floats(value_heads), random.floats(value_heads));
    let state_len = value_heads * key_dim * value_dim;
    let data: Vec<[Vec<f32>; 4]> = lengths
        .iter()
        .map(|n| {
            [n * width, n * value_heads, n * value_heads, state_len]
                .map(|len| random.values(kind, len))
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

/// Outputs of attention over random spans of (length, start).
fn run_attention(
    cpu: Option<&Cpu>,
    random: &mut Random,
    shape: AttentionShape,
    spans: &[(usize, usize)],
    kind: Kind,
) -> Vec<Vec<f32>> {
    let page_len = shape.kv_heads * KV_PAGE_TOKENS * shape.head_dim;
    let data: Vec<(Vec<f32>, Vec<[Vec<f32>; 2]>)> = spans
        .iter()
        .map(|&(n, start)| {
            let q = random.values(kind, n * shape.heads * shape.head_dim);
            let pages = (start + n).div_ceil(KV_PAGE_TOKENS);
            let pages = (0..pages).map(|_| [(); 2].map(|()| random.values(kind, page_len)));
            (q, pages.collect())
        })
        .collect();
    let pages: Vec<Vec<KvPage<'_>>> = data
        .iter()
        .map(|(_, pages)| {
            pages
                .iter()
                .map(|[keys, values]| KvPage { keys, values })
                .collect()
        })
        .collect();
    let mut outputs: Vec<Vec<f32>> = data.iter().map(|(q, _)| vec![5.0; q.len()]).collect();
    let mut calls: Vec<AttentionSpan<'_>> = Vec::new();
    for (((&(_, start), (q, _)), pages), out) in
        spans.iter().zip(&data).zip(&pages).zip(&mut outputs)
    {
        calls.push(AttentionSpan {
            q,
            start,
            pages,
            out,
        });
    }
    match cpu {
        Some(cpu) => cpu.attention(&mut calls, shape).unwrap(),
        None => reference::attention(&mut calls, shape).unwrap(),
    }
    outputs
}

#[test]
fn delta_rule_in_two_calls_equals_one() {
    let shape = DeltaShape {
        key_heads: 1,
        value_heads: 2,
        key_dim: 24,
        value_dim: 80,
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
fn queries_at_once_equal_queries_one_by_one() {
    let shape = AttentionShape {
        heads: 4,
        kv_heads: 2,
        head_dim: 48,
        scale: 0.2,
    };
    let mut random = Random(9);
    let (n, start) = (70, 60);
    let q = random.floats(n * 4 * 48);
    let kv: Vec<[Vec<f32>; 2]> = (0..3)
        .map(|_| [(); 2].map(|()| random.floats(2 * KV_PAGE_TOKENS * 48)))
        .collect();
    let pages: Vec<KvPage<'_>> = kv
        .iter()
        .map(|[keys, values]| KvPage { keys, values })
        .collect();
    for cpu in cpus() {
        let run = |from: usize, to: usize| {
            let mut out = vec![0.0; (to - from) * 4 * 48];
            let q = &q[from * 4 * 48..to * 4 * 48];
            let span = AttentionSpan {
                q,
                start: start + from,
                pages: &pages,
                out: &mut out,
            };
            cpu.attention(&mut [span], shape).unwrap();
            out
        };
        let single: Vec<f32> = (0..n).flat_map(|t| run(t, t + 1)).collect();
        assert_same("attention", &cpu, &run(0, n), &single);
    }
}

#[test]
fn positions_not_yet_reached_do_not_matter() {
    let shape = AttentionShape {
        heads: 1,
        kv_heads: 1,
        head_dim: 16,
        scale: 1.0,
    };
    let mut random = Random(4);
    let q = random.floats(16);
    let mut keys = random.floats(KV_PAGE_TOKENS * 16);
    let mut values = random.floats(KV_PAGE_TOKENS * 16);
    for cpu in cpus() {
        let run = |keys: &[f32], values: &[f32]| {
            let mut out = vec![0.0; 16];
            let pages = &[KvPage { keys, values }];
            cpu.attention(
                &mut [AttentionSpan {
                    q: &q,
                    start: 4,
                    pages,
                    out: &mut out,
                }],
                shape,
            )
            .unwrap();
            out
        };
        let clean = run(&keys, &values);
        keys[5 * 16..].fill(f32::NAN);
        values[5 * 16..].fill(f32::INFINITY);
        assert_same("masked", &cpu, &run(&keys, &values), &clean);
        assert!(clean.iter().all(|x| x.is_finite()));
    }
}

#[test]
fn attention_matches_softmax_in_f64() {
    let shape = AttentionShape {
        heads: 1,
        kv_heads: 1,
        head_dim: 32,
        scale: 0.5,
    };
    let mut random = Random(8);
    let kv: Vec<[Vec<f32>; 2]> = (0..4)
        .map(|_| [(); 2].map(|()| random.floats(KV_PAGE_TOKENS * 32)))
        .collect();
    let pages: Vec<KvPage<'_>> = kv
        .iter()
        .map(|[keys, values]| KvPage { keys, values })
        .collect();
    let (q, start) = (random.floats(32), 240);
    let row =
        |which: usize, j: usize| &kv[j / KV_PAGE_TOKENS][which][j % KV_PAGE_TOKENS * 32..][..32];
    let weights: Vec<f64> = (0..=start)
        .map(|j| {
            let dot: f64 = q
                .iter()
                .zip(row(0, j))
                .map(|(&a, &b)| f64::from(a) * f64::from(b))
                .sum();
            (dot * 0.5).exp()
        })
        .collect();
    let sum: f64 = weights.iter().sum();
    let expected: Vec<f32> = (0..32)
        .map(|d| {
            let sums = weights
                .iter()
                .enumerate()
                .map(|(j, w)| w * f64::from(row(1, j)[d]));
            (sums.sum::<f64>() / sum) as f32
        })
        .collect();
    let mut out = vec![0.0; 32];
    let cpu = Cpu::new(Isa::detect(), 1).unwrap();
    cpu.attention(
        &mut [AttentionSpan {
            q: &q,
            start,
            pages: &pages,
            out: &mut out,
        }],
        shape,
    )
    .unwrap();
    assert!(common::relative_l2(&out, &expected) < 1e-5);
}

#[test]
fn wrong_sizes_are_errors() {
    let cpu = Cpu::new(Isa::Scalar, 1).unwrap();
    let shape = AttentionShape {
        heads: 2,
        kv_heads: 1,
        head_dim: 4,
        scale: 1.0,
    };
    let kv = vec![0.0; KV_PAGE_TOKENS * 4];
    let page = KvPage {
        keys: &kv,
        values: &kv,
    };
    let run = |start, pages: &[KvPage<'_>], shape| {
        let span = AttentionSpan {
            q: &[0.0; 8],
            start,
            pages,
            out: &mut [0.0; 8],
        };
        cpu.attention(&mut [span], shape)
    };
    assert!(run(63, &[page], shape).is_ok());
    assert!(matches!(
        run(64, &[page], shape),
        Err(KernelError::Size { what: "pages", .. })
    ));
    assert!(run(usize::MAX, &[page], shape).is_err());
    let short = KvPage {
        keys: &kv[1..],
        values: &kv,
    };
    assert!(matches!(
        run(0, &[short], shape),
        Err(KernelError::Size { .. })
    ));
    assert!(
        run(
            0,
            &[page],
            AttentionShape {
                kv_heads: 0,
                ..shape
            }
        )
        .is_err()
    );

    let delta = DeltaShape {
        key_heads: 2,
        value_heads: 3,
        key_dim: 1,
        value_dim: 1,
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
