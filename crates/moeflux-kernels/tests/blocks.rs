//! Blocks of positions that are chosen, and streams by gates: all instruction sets and thread
//! counts against the reference.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use common::{Random, assert_same, cpus, kind};
use moeflux_kernels::{
    AttentionShape, AttentionSpan, Blocks, Cpu, KV_PAGE_TOKENS, KernelError, KvPage, KvType,
    reference,
};
use proptest::prelude::*;

/// Queries from a position on, with pages of keys and values.
struct Attended {
    shape: AttentionShape,
    q: Vec<f32>,
    start: usize,
    pages: Vec<KvPage>,
}

impl Attended {
    fn random(
        random: &mut Random,
        (kv_heads, group, head_dim): (usize, usize, usize),
        (start, n): (usize, usize),
        kv_type: KvType,
    ) -> Attended {
        let heads = kv_heads * group;
        let len = (start + n) * kv_heads * head_dim;
        let (keys, values) = (random.floats(len), random.floats(len));
        let count = (start + n).div_ceil(KV_PAGE_TOKENS);
        let mut pages = vec![KvPage::new(kv_type, kv_heads, head_dim); count];
        reference::kv_append(&mut pages, 0, &keys, &values).unwrap();
        Attended {
            shape: AttentionShape {
                heads,
                kv_heads,
                head_dim,
                scale: 0.3,
                window: None,
            },
            q: random.floats(n * heads * head_dim),
            start,
            pages,
        }
    }

    fn run(&self, cpu: Option<&Cpu>, blocks: Blocks<'_>) -> Result<Vec<f32>, KernelError> {
        let mut out = vec![5.0; self.q.len()];
        let span = AttentionSpan {
            q: &self.q,
            start: self.start,
            dropped: 0,
            pages: &self.pages,
            out: &mut out,
        };
        match cpu {
            Some(cpu) => cpu.block_attention(&mut [span], &[blocks], self.shape)?,
            None => reference::block_attention(&mut [span], &[blocks], self.shape)?,
        }
        Ok(out)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn attending(
        seed: u64, kv_heads in 1usize..4, group in 1usize..6, head_dim in 1usize..80,
        rate in 1usize..20, start in 0usize..1500, n in 1usize..30, top_k in 1usize..200,
        half: bool,
    ) {
        let random = &mut Random(seed);
        let kv_type = if half { KvType::F16 } else { KvType::F32 };
        let sizes = (kv_heads, group, head_dim);
        let attended = Attended::random(random, sizes, (start, n), kv_type);
        // Every other block, as far as they go.
        let chosen: Vec<u32> = (0..n)
            .flat_map(|t| {
                let complete = (start + t + 1) / rate;
                let step = if complete >= 2 * top_k { 2 } else { 1 };
                (0..top_k).map(move |i| if i * step < complete { (i * step) as u32 } else { 0 })
            })
            .collect();
        let blocks = Blocks { rate, chosen: &chosen, top_k };
        let expected = attended.run(None, blocks).unwrap();
        prop_assert!(expected.iter().all(|x| x.is_finite()));
        for cpu in cpus() {
            let found = attended.run(Some(&cpu), blocks).unwrap();
            assert_same("block_attention", &cpu, &found, &expected);
        }
    }

    /// A query that chooses all blocks has the bits of plain attention, on either path.
    #[test]
    fn all_blocks_are_all_positions(
        seed: u64, rate in 1usize..9, start in 0usize..700, n in 1usize..9,
    ) {
        let random = &mut Random(seed);
        let attended = Attended::random(random, (2, 2, 16), (start, n), KvType::F16);
        let mut expected = vec![5.0; attended.q.len()];
        let span = AttentionSpan {
            q: &attended.q,
            start,
            dropped: 0,
            pages: &attended.pages,
            out: &mut expected,
        };
        reference::attention(&mut [span], attended.shape, None).unwrap();
        let top_k = (start + n) / rate + 1;
        let chosen = vec![0; n * top_k];
        let blocks = Blocks { rate, chosen: &chosen, top_k };
        for cpu in cpus() {
            let found = attended.run(Some(&cpu), blocks).unwrap();
            assert_same("attention", &cpu, &found, &expected);
        }
    }

    #[test]
    fn streams_by_gates(
        seed: u64, n in 1usize..20, streams in 1usize..6, dim in 1usize..300, x_kind in 0usize..14,
    ) {
        let random = &mut Random(seed);
        let all = n * streams * dim;
        let (x, gates) = (random.values(kind(x_kind), all), random.floats(all));
        let (block, weights) = (random.floats(n * dim), random.values(kind(x_kind), n * streams));
        let norm = random.floats(streams * dim);
        let (sizes, divisor) = ((streams, dim), streams as f32);
        let run = |cpu: Option<&Cpu>| {
            let mut one = vec![5.0; n * dim];
            let mut outs = [(); 4].map(|()| vec![5.0; all]);
            let [silu, spread, gated, normed] = &mut outs;
            match cpu {
                Some(cpu) => {
                    cpu.mix_streams(&x, &gates, sizes, &mut one).unwrap();
                    cpu.scaled_silu(&x, divisor, silu).unwrap();
                    cpu.inject_streams(&x, &block, &weights, streams, spread).unwrap();
                    cpu.gate_streams(&x, &gates, &block, sizes, gated).unwrap();
                    cpu.rms_norm_pieces(&x, &norm, dim, 1e-6, normed).unwrap();
                }
                None => {
                    reference::mix_streams(&x, &gates, sizes, &mut one).unwrap();
                    reference::scaled_silu(&x, divisor, silu).unwrap();
                    reference::inject_streams(&x, &block, &weights, streams, spread).unwrap();
                    reference::gate_streams(&x, &gates, &block, sizes, gated).unwrap();
                    reference::rms_norm_pieces(&x, &norm, dim, 1e-6, normed).unwrap();
                }
            }
            [one, outs.concat()].concat()
        };
        let expected = run(None);
        for cpu in cpus() {
            assert_same("streams", &cpu, &run(Some(&cpu)), &expected);
        }
    }
}

#[test]
fn a_block_that_is_not_whole_is_refused() {
    let attended = Attended::random(&mut Random(1), (1, 1, 2), (7, 1), KvType::F32);
    for (block, fits) in [(3, true), (4, false)] {
        let blocks = Blocks {
            rate: 2,
            chosen: &[1, block],
            top_k: 2,
        };
        for cpu in [None, Some(&cpus()[0])] {
            let refused = matches!(
                attended.run(cpu, blocks),
                Err(KernelError::Index { limit: 4, .. })
            );
            assert_eq!(refused, !fits, "block {block}");
        }
    }
}

/// The last position belongs to a whole block that is not chosen: the query does not see it.
#[test]
fn a_query_sees_the_chosen_blocks_and_what_follows_the_last_whole_one() {
    let (keys, mut values) = ([0.0; 9], [0.0; 9]);
    for (at, value) in values.iter_mut().enumerate() {
        *value = (1 << at) as f32;
    }
    let mut page = KvPage::new(KvType::F32, 1, 1);
    for at in 0..9 {
        page.write(at, 0, &keys[at..][..1], &values[at..][..1])
            .unwrap();
    }
    for (start, sum, count) in [(7, 1.0 + 2.0 + 16.0 + 32.0, 4.0), (8, 307.0, 5.0)] {
        let attended = Attended {
            shape: AttentionShape {
                heads: 1,
                kv_heads: 1,
                head_dim: 1,
                scale: 1.0,
                window: None,
            },
            q: vec![1.0],
            start,
            pages: vec![page.clone()],
        };
        let blocks = Blocks {
            rate: 2,
            chosen: &[0, 2],
            top_k: 2,
        };
        let out = attended.run(Some(&cpus()[0]), blocks).unwrap();
        assert!((out[0] - sum / count).abs() < 1e-4, "{out:?}");
    }
}
