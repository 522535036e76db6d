//! Attention: all instruction sets and thread counts against the reference and against softmax
//! in f64, and queries at once against one by one.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use std::slice::from_ref;

use common::{Kind, Random, assert_same, cpus, kind};
use moeflux_kernels::{
    AttentionShape, AttentionSpan, Cpu, Isa, KV_PAGE_TOKENS, KernelError, KvPage, KvType, reference,
};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn attentions(
        seed: u64, kv_heads in 1usize..3, group in 1usize..10, head_dim in 1usize..150,
        spans in proptest::collection::vec((1usize..12, 0usize..1100), 0..3), x_kind in 0usize..14,
        half: bool,
    ) {
        let kv_type = if half { KvType::F16 } else { KvType::F32 };
        let (heads, window) = (kv_heads * group, None);
        let shape = AttentionShape { heads, kv_heads, head_dim, scale: 0.3, window };
        let run = |cpu: Option<&Cpu>| {
            let kind = kind(x_kind);
            run_attention(cpu, &mut Random(seed), kv_type, shape, &spans, kind).concat()
        };
        let expected = run(None);
        for cpu in cpus() {
            assert_same("attention", &cpu, &run(Some(&cpu)), &expected);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    /// Windows of all sizes, with and without the pages that they have passed; keys as values.
    #[test]
    fn windows_and_sinks(
        seed: u64, kv_heads in 1usize..3, group in 1usize..9, head_dim in 1usize..100,
        window in 1usize..1200, n in 1usize..90, start in 0usize..1100, is_joint: bool,
    ) {
        let (heads, window) = (kv_heads * group, Some(window));
        let shape = AttentionShape { heads, kv_heads, head_dim, scale: 0.3, window };
        let random = &mut Random(seed);
        let (q, sinks) = (random.floats(n * shape.heads * head_dim), random.floats(shape.heads));
        let mut pages = random_pages(random, KvType::F16, shape, start + n, Kind::Plain);
        if is_joint {
            pages = pages.iter().map(as_joint).collect();
        }
        let passed = shape.first_seen(start) / KV_PAGE_TOKENS;
        let run = |cpu: Option<&Cpu>, dropped: usize| {
            let mut out = vec![5.0; q.len()];
            let pages = &pages[dropped..];
            let span = AttentionSpan { q: &q, start, dropped, pages, out: &mut out };
            match cpu {
                Some(cpu) => cpu.attention(&mut [span], shape, Some(&sinks)).unwrap(),
                None => reference::attention(&mut [span], shape, Some(&sinks)).unwrap(),
            }
            out
        };
        let expected = run(None, 0);
        prop_assert!(expected.iter().all(|x| x.is_finite()));
        for cpu in cpus() {
            assert_same("attention", &cpu, &run(Some(&cpu), 0), &expected);
            assert_same("without passed pages", &cpu, &run(Some(&cpu), passed), &expected);
        }
    }
}

/// A page whose keys are those of `page`, and the values too.
fn as_joint(page: &KvPage) -> KvPage {
    let (kv_heads, head_dim) = page.shape();
    let mut shared = KvPage::joint(page.kv_type(), kv_heads, head_dim);
    let (mut key, mut value) = (vec![0.0; head_dim], vec![0.0; head_dim]);
    for position in 0..KV_PAGE_TOKENS {
        for head in 0..kv_heads {
            page.read(position, head, &mut key, &mut value).unwrap();
            shared.write(position, head, &key, &value).unwrap();
        }
    }
    shared
}

#[test]
fn keys_that_are_the_values_too_count_as_both() {
    let mut random = Random(11);
    let shape = AttentionShape {
        heads: 6,
        kv_heads: 2,
        head_dim: 50,
        scale: 0.2,
        window: None,
    };
    let (n, start) = (9, 600);
    let q = random.floats(n * 6 * 50);
    for kv_type in [KvType::F16, KvType::F32] {
        let keys = random.floats((start + n) * 2 * 50);
        let mut both = empty_pages(kv_type, shape, start + n);
        let mut once: Vec<KvPage> = both.iter().map(as_joint).collect();
        reference::kv_append(&mut both, 0, &keys, &keys).unwrap();
        for cpu in cpus() {
            cpu.kv_append(&mut once, 0, &keys, &keys).unwrap();
            let run = |pages: &[KvPage]| {
                let mut out = vec![0.0; q.len()];
                let span = AttentionSpan {
                    q: &q,
                    start,
                    dropped: 0,
                    pages,
                    out: &mut out,
                };
                cpu.attention(&mut [span], shape, None).unwrap();
                out
            };
            assert_same("shared", &cpu, &run(&once), &run(&both));
        }
        let mut bytes = vec![];
        once[0].save(KV_PAGE_TOKENS, &mut bytes);
        assert_eq!(bytes.len() as u64, KvPage::bytes(kv_type, 2, 50) / 2);
        let mut loaded = KvPage::joint(kv_type, 2, 50);
        loaded.load(KV_PAGE_TOKENS, &bytes).unwrap();
        let mut again = vec![];
        loaded.save(KV_PAGE_TOKENS, &mut again);
        assert_eq!(bytes, again);
    }
}

#[test]
fn a_sink_takes_its_share() {
    let shape = AttentionShape {
        heads: 1,
        kv_heads: 1,
        head_dim: 1,
        scale: 1.0,
        window: Some(2),
    };
    let mut pages = empty_pages(KvType::F32, shape, 3);
    // The first position is outside of the window; two equal scores and an equal sink share.
    reference::kv_append(&mut pages, 0, &[9.0, 1.0, 1.0], &[1e6, 3.0, 6.0]).unwrap();
    for cpu in cpus() {
        let mut out = [0.0];
        let span = AttentionSpan {
            q: &[1.0],
            start: 2,
            dropped: 0,
            pages: &pages,
            out: &mut out,
        };
        cpu.attention(&mut [span], shape, Some(&[1.0])).unwrap();
        assert!((out[0] - 3.0).abs() < 1e-6, "{out:?}");
    }
}

/// Pages with random keys and values at the positions 0 .. `positions`.
fn random_pages(
    random: &mut Random,
    kv_type: KvType,
    shape: AttentionShape,
    positions: usize,
    kind: Kind,
) -> Vec<KvPage> {
    let mut pages = empty_pages(kv_type, shape, positions);
    let len = positions * shape.kv_heads * shape.head_dim;
    let (k, v) = (random.values(kind, len), random.values(kind, len));
    reference::kv_append(&mut pages, 0, &k, &v).unwrap();
    pages
}

fn empty_pages(kv_type: KvType, shape: AttentionShape, positions: usize) -> Vec<KvPage> {
    let page = || KvPage::new(kv_type, shape.kv_heads, shape.head_dim);
    (0..positions.div_ceil(KV_PAGE_TOKENS))
        .map(|_| page())
        .collect()
}

/// Outputs of attention over random spans of (length, start).
fn run_attention(
    cpu: Option<&Cpu>,
    random: &mut Random,
    kv_type: KvType,
    shape: AttentionShape,
    spans: &[(usize, usize)],
    kind: Kind,
) -> Vec<Vec<f32>> {
    let data: Vec<(Vec<f32>, Vec<KvPage>)> = spans
        .iter()
        .map(|&(n, start)| {
            let q = random.values(kind, n * shape.heads * shape.head_dim);
            (q, random_pages(random, kv_type, shape, start + n, kind))
        })
        .collect();
    let mut outputs: Vec<Vec<f32>> = data.iter().map(|(q, _)| vec![5.0; q.len()]).collect();
    let mut calls: Vec<AttentionSpan<'_>> = Vec::new();
    for ((&(_, start), (q, pages)), out) in spans.iter().zip(&data).zip(&mut outputs) {
        calls.push(AttentionSpan {
            q,
            start,
            dropped: 0,
            pages,
            out,
        });
    }
    match cpu {
        Some(cpu) => cpu.attention(&mut calls, shape, None).unwrap(),
        None => reference::attention(&mut calls, shape, None).unwrap(),
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
        window: None,
    };
    let mut random = Random(9);
    // Across pages and across chunks.
    let (n, start) = (70, 460);
    let q = random.floats(n * 4 * 48);
    for kv_type in [KvType::F16, KvType::F32] {
        let pages = random_pages(&mut random, kv_type, shape, start + n, Kind::Plain);
        for cpu in cpus() {
            let run = |from: usize, to: usize| {
                let mut out = vec![0.0; (to - from) * 4 * 48];
                let q = &q[from * 4 * 48..to * 4 * 48];
                let span = AttentionSpan {
                    q,
                    start: start + from,
                    dropped: 0,
                    pages: &pages,
                    out: &mut out,
                };
                cpu.attention(&mut [span], shape, None).unwrap();
                out
            };
            let single: Vec<f32> = (0..n).flat_map(|t| run(t, t + 1)).collect();
            assert_same("attention", &cpu, &run(0, n), &single);
        }
    }
}

#[test]
fn positions_not_yet_reached_do_not_matter() {
    let shape = AttentionShape {
        heads: 2,
        kv_heads: 1,
        head_dim: 16,
        scale: 1.0,
        window: None,
    };
    let mut random = Random(4);
    let q = random.floats(3 * 32);
    let mut pages = random_pages(&mut random, KvType::F16, shape, 64, Kind::Plain);
    let run = |cpu: &Cpu, pages: &[KvPage]| {
        let mut out = vec![0.0; 3 * 32];
        let span = AttentionSpan {
            q: &q,
            start: 4,
            dropped: 0,
            pages,
            out: &mut out,
        };
        cpu.attention(&mut [span], shape, None).unwrap();
        out
    };
    let clean: Vec<Vec<f32>> = cpus().iter().map(|cpu| run(cpu, &pages)).collect();
    let garbage = |x| vec![x; 57 * 16];
    reference::kv_append(&mut pages, 7, &garbage(f32::NAN), &garbage(f32::INFINITY)).unwrap();
    for (cpu, clean) in cpus().iter().zip(&clean) {
        assert_same("masked", cpu, &run(cpu, &pages), clean);
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
        window: None,
    };
    for (kv_type, tolerance) in [(KvType::F32, 1e-5), (KvType::F16, 1e-3)] {
        let mut random = Random(8);
        let (q, start) = (random.floats(32), 1240);
        let mut pages = empty_pages(kv_type, shape, start + 1);
        let [k, v] = [(); 2].map(|()| random.floats((start + 1) * 32));
        reference::kv_append(&mut pages, 0, &k, &v).unwrap();
        let weights: Vec<f64> = k
            .chunks_exact(32)
            .map(|k| {
                let products = q.iter().zip(k).map(|(&a, &b)| f64::from(a) * f64::from(b));
                (products.sum::<f64>() * 0.5).exp()
            })
            .collect();
        let sum: f64 = weights.iter().sum();
        let weighted = |d: usize| -> f64 {
            let values = v.chunks_exact(32).map(|v| f64::from(v[d]));
            values.zip(&weights).map(|(v, w)| v * w).sum()
        };
        let expected: Vec<f32> = (0..32).map(|d| (weighted(d) / sum) as f32).collect();
        let mut out = vec![0.0; 32];
        let cpu = Cpu::new(Isa::detect(), 1).unwrap();
        let span = AttentionSpan {
            q: &q,
            start,
            dropped: 0,
            pages: &pages,
            out: &mut out,
        };
        cpu.attention(&mut [span], shape, None).unwrap();
        let error = common::relative_l2(&out, &expected);
        assert!(error < tolerance, "{kv_type}: {error}");
    }
}

#[test]
fn wrong_sizes_are_errors() {
    let cpu = Cpu::new(Isa::Scalar, 1).unwrap();
    let shape = AttentionShape {
        heads: 2,
        kv_heads: 1,
        head_dim: 4,
        scale: 1.0,
        window: None,
    };
    let page = KvPage::new(KvType::F16, 1, 4);
    let run = |start, pages: &[KvPage], shape| {
        let span = AttentionSpan {
            q: &[0.0; 8],
            start,
            dropped: 0,
            pages,
            out: &mut [0.0; 8],
        };
        cpu.attention(&mut [span], shape, None)
    };
    assert!(run(63, from_ref(&page), shape).is_ok());
    assert!(matches!(
        run(64, from_ref(&page), shape),
        Err(KernelError::Size { what: "pages", .. })
    ));
    assert!(run(usize::MAX, from_ref(&page), shape).is_err());
    let sinks = |count: usize| {
        let span = AttentionSpan {
            q: &[0.0; 8],
            start: 0,
            dropped: 0,
            pages: from_ref(&page),
            out: &mut [0.0; 8],
        };
        cpu.attention(&mut [span], shape, Some(&vec![0.0; count]))
    };
    assert!(sinks(2).is_ok());
    assert!(sinks(1).is_err());
    let no_window = AttentionShape {
        window: Some(0),
        ..shape
    };
    assert!(run(0, from_ref(&page), no_window).is_err());
    let wide = KvPage::new(KvType::F16, 1, 5);
    assert!(matches!(
        run(0, &[wide], shape),
        Err(KernelError::Size { .. })
    ));
    let other = KvPage::new(KvType::F32, 1, 4);
    assert!(run(0, &[page.clone(), other], shape).is_err());
    assert!(
        run(
            0,
            from_ref(&page),
            AttentionShape {
                kv_heads: 0,
                ..shape
            }
        )
        .is_err()
    );
}
