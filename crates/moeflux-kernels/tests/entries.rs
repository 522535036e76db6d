//! Entries that stand for windows of positions: all instruction sets and thread counts against the
//! reference, and one call against several.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use common::{Random, assert_same, cpus, kind};
use moeflux_kernels::{
    AttentionShape, AttentionSpan, Blocks, CompressShape, CompressSpan, Cpu, Entries, IndexShape,
    IndexSpan, KV_PAGE_TOKENS, KernelError, KvPage, KvType, reference,
};
use proptest::prelude::*;

/// Entries and the state after `n` positions from `start` on.
fn pooled(
    cpu: Option<&Cpu>,
    shape: CompressShape,
    (values, gates): (&[f32], &[f32]),
    bias: &[f32],
    (start, state): (usize, &[f32]),
) -> (Vec<f32>, Vec<f32>) {
    let n = values.len() / shape.width();
    let mut out = vec![5.0; shape.completed(start, n) * shape.dim];
    let mut next_state = vec![5.0; state.len()];
    let span = CompressSpan {
        values,
        gates,
        start,
        state,
        next_state: &mut next_state,
        out: &mut out,
    };
    match cpu {
        Some(cpu) => cpu.compress(&mut [span], shape, bias).unwrap(),
        None => reference::compress(&mut [span], shape, bias).unwrap(),
    }
    (out, next_state)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn pooling(
        seed: u64, rate in 1usize..20, dim in 1usize..200, overlaps: bool, start in 0usize..50,
        n in 1usize..70, cut in 0usize..70, x_kind in 0usize..14,
    ) {
        let shape = CompressShape { rate, dim, overlaps };
        let random = &mut Random(seed);
        let width = shape.width();
        let (values, gates) =
            (random.values(kind(x_kind), n * width), random.values(kind(x_kind), n * width));
        let (bias, state) = (random.floats(rate * width), vec![0.0; shape.state_len()]);
        let whole = (&values[..], &gates[..]);
        let (expected, expected_state) = pooled(None, shape, whole, &bias, (start, &state));
        for cpu in cpus() {
            let (out, after) = pooled(Some(&cpu), shape, whole, &bias, (start, &state));
            assert_same("compress", &cpu, &out, &expected);
            assert_same("the state", &cpu, &after, &expected_state);
            let at = cut.min(n) * width;
            let (first, rest) =
                ((&values[..at], &gates[..at]), (&values[at..], &gates[at..]));
            let (mut out, middle) = pooled(Some(&cpu), shape, first, &bias, (start, &state));
            let start = start + cut.min(n);
            let (more, after) = pooled(Some(&cpu), shape, rest, &bias, (start, &middle));
            out.extend(more);
            assert_same("two calls", &cpu, &out, &expected);
            assert_same("the state of two calls", &cpu, &after, &expected_state);
        }
    }

    /// Of scores that repeat too, where the first of equals are chosen.
    #[test]
    fn choosing(
        seed: u64, heads in 1usize..10, dim in 1usize..70, rate in 1usize..6, top_k in 1usize..40,
        start in 0usize..900, n in 1usize..80, half: bool, coarse: bool,
    ) {
        let random = &mut Random(seed);
        let round = |x: f32| if coarse { x.round() } else { x };
        let mut floats = |len: usize| -> Vec<f32> {
            random.floats(len).into_iter().map(round).collect()
        };
        let (q, weights) = (floats(n * heads * dim), floats(n * heads));
        let keys = floats((start + n) / rate * dim);
        let pages = pages(half, dim, &keys);
        let shape = IndexShape { heads, dim, rate, top_k };
        let run = |cpu: Option<&Cpu>| {
            let mut out = vec![7; n * top_k];
            let (q, weights, pages, out_ref) = (&q, &weights, &pages, &mut out);
            let span = IndexSpan { q, weights, start, pages, out: out_ref };
            match cpu {
                Some(cpu) => cpu.choose_entries(&mut [span], shape).unwrap(),
                None => reference::choose_entries(&mut [span], shape).unwrap(),
            }
            out
        };
        let expected = run(None);
        for cpu in cpus() {
            prop_assert_eq!(&run(Some(&cpu)), &expected);
        }
    }

    #[test]
    fn attending(
        seed: u64, heads in 1usize..40, head_dim in 1usize..80, rate in 1usize..9,
        window in 1usize..700, start in 0usize..1500, n in 1usize..6, top_k in 0usize..700,
        half: bool,
    ) {
        let random = &mut Random(seed);
        let shape = AttentionShape { heads, kv_heads: 1, head_dim, scale: 0.2, window: Some(window) };
        let (q, sinks) = (random.floats(n * heads * head_dim), random.floats(heads));
        let positions = pages(half, head_dim, &random.floats((start + n) * head_dim));
        let entries = pages(half, head_dim, &random.floats((start + n) / rate * head_dim));
        // Every other entry, as far as they go.
        let chosen: Vec<u32> = (0..n)
            .flat_map(|t| {
                let complete = (start + t + 1) / rate;
                let step = if complete >= 2 * top_k { 2 } else { 1 };
                (0..top_k).map(move |i| if i * step < complete { (i * step) as u32 } else { 0 })
            })
            .collect();
        let chosen = (top_k > 0).then_some((&chosen[..], top_k));
        let run = |cpu: Option<&Cpu>| {
            let mut out = vec![5.0; q.len()];
            let span = AttentionSpan {
                q: &q, start, dropped: 0, pages: &positions, out: &mut out,
            };
            let entries = [Entries { rate, pages: &entries, chosen }];
            let (spans, sinks) = (&mut [span], Some(&sinks[..]));
            match cpu {
                Some(cpu) => cpu.sparse_attention(spans, &entries, shape, sinks).unwrap(),
                None => reference::sparse_attention(spans, &entries, shape, sinks).unwrap(),
            }
            out
        };
        let expected = run(None);
        prop_assert!(expected.iter().all(|x| x.is_finite()));
        for cpu in cpus() {
            assert_same("sparse_attention", &cpu, &run(Some(&cpu)), &expected);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Queries that see everything and such that do not, at once and one by one.
    #[test]
    fn attending_to_blocks_of_latents(
        seed: u64, heads in 1usize..40, head_dim in 1usize..80, rate in 1usize..9,
        top_k in 1usize..120, start in 0usize..1500, n in 1usize..20, half: bool,
    ) {
        let random = &mut Random(seed);
        let shape = AttentionShape { heads, kv_heads: 1, head_dim, scale: 0.2, window: None };
        let width = heads * head_dim;
        let q = random.floats(n * width);
        let positions = pages(half, head_dim, &random.floats((start + n) * head_dim));
        // The last of every few blocks.
        let chosen: Vec<u32> = (0..n)
            .flat_map(|t| {
                let complete = (start + t + 1) / rate;
                let step = (complete / top_k).max(1);
                (0..top_k).map(move |i| (i * step + step - 1) as u32)
            })
            .collect();
        let run = |cpu: Option<&Cpu>, queries: std::ops::Range<usize>| {
            let q = &q[queries.start * width..queries.end * width];
            let mut out = vec![5.0; q.len()];
            let (start, pages) = (start + queries.start, &positions[..]);
            let span = AttentionSpan { q, start, dropped: 0, pages, out: &mut out };
            let chosen = &chosen[queries.start * top_k..queries.end * top_k];
            let blocks = [Blocks { rate, chosen, top_k }];
            let spans = &mut [span];
            match cpu {
                Some(cpu) => cpu.block_attention(spans, &blocks, shape).unwrap(),
                None => reference::block_attention(spans, &blocks, shape).unwrap(),
            }
            out
        };
        let expected = run(None, 0..n);
        prop_assert!(expected.iter().all(|x| x.is_finite()));
        for cpu in cpus() {
            assert_same("block_attention", &cpu, &run(Some(&cpu), 0..n), &expected);
            let each: Vec<f32> = (0..n).flat_map(|t| run(Some(&cpu), t..t + 1)).collect();
            assert_same("one by one", &cpu, &each, &expected);
        }
    }
}

/// Pages with keys `[n, dim]` that are the values too.
fn pages(half: bool, dim: usize, keys: &[f32]) -> Vec<KvPage> {
    let kv_type = if half { KvType::F16 } else { KvType::F32 };
    let count = (keys.len() / dim).div_ceil(KV_PAGE_TOKENS);
    let mut pages = vec![KvPage::joint(kv_type, 1, dim); count];
    reference::kv_append(&mut pages, 0, keys, keys).unwrap();
    pages
}

#[test]
fn an_entry_that_is_not_complete_is_refused() {
    let shape = AttentionShape {
        heads: 1,
        kv_heads: 1,
        head_dim: 2,
        scale: 1.0,
        window: Some(4),
    };
    let positions = pages(false, 2, &[1.0; 16]);
    let (q, mut out) = ([1.0; 2], [0.0; 2]);
    let span = AttentionSpan {
        q: &q,
        start: 7,
        dropped: 0,
        pages: &positions,
        out: &mut out,
    };
    let entries = pages(false, 2, &[1.0; 8]);
    let entries = [Entries {
        rate: 2,
        pages: &entries,
        chosen: Some((&[1, 4], 2)),
    }];
    let cpu = &cpus()[0];
    let refused = cpu.sparse_attention(&mut [span], &entries, shape, None);
    let named = matches!(
        refused,
        Err(KernelError::Index {
            index: 4,
            limit: 4,
            ..
        })
    );
    assert!(named, "{refused:?}");
}
