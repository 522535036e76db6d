//! Attention: all instruction sets and thread counts against the reference and against softmax
//! in f64, and queries at once against one by one.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use common::{Kind, Random, assert_same, cpus, kind};
use moeflux_kernels::{
    AttentionShape, AttentionSpan, Cpu, Isa, KV_PAGE_TOKENS, KernelError, KvPage, reference,
};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn attentions(
        seed: u64, kv_heads in 1usize..3, group in 1usize..8, head_dim in 1usize..150,
        spans in proptest::collection::vec((1usize..4, 0usize..200), 0..3), x_kind in 0usize..14,
    ) {
        let shape = AttentionShape { heads: kv_heads * group, kv_heads, head_dim, scale: 0.3 };
        let run = |cpu: Option<&Cpu>| {
            run_attention(cpu, &mut Random(seed), shape, &spans, kind(x_kind)).concat()
        };
        let expected = run(None);
        for cpu in cpus() {
            assert_same("attention", &cpu, &run(Some(&cpu)), &expected);
        }
    }
}

/// Keys and values.
type Page = [Vec<f32>; 2];

/// Outputs of attention over random spans of (length, start).
fn run_attention(
    cpu: Option<&Cpu>,
    random: &mut Random,
    shape: AttentionShape,
    spans: &[(usize, usize)],
    kind: Kind,
) -> Vec<Vec<f32>> {
    let page_len = shape.kv_heads * KV_PAGE_TOKENS * shape.head_dim;
    let data: Vec<(Vec<f32>, Vec<Page>)> = spans
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
}
