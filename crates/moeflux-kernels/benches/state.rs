//! Operations over a session's state: attention, gated delta rule and convolution, at the shapes
//! of Qwen3.6-35B-A3B.

#![allow(missing_docs, clippy::unwrap_used)] // criterion's macros; a command for developers

mod common;

use common::{Work, bench, cpu, criterion, floats, group, joint_pages, pages};
use criterion::{Criterion, criterion_group, criterion_main};
use moeflux_kernels::{
    AttentionShape, AttentionSpan, ConvSpan, Decay, DeltaShape, DeltaSpan, HeadOrder, KvPage,
};

const ATTENTION: AttentionShape = AttentionShape {
    heads: 16,
    kv_heads: 2,
    head_dim: 256,
    scale: 0.0625,
    window: None,
};
const DELTA: DeltaShape = DeltaShape {
    key_heads: 16,
    value_heads: 32,
    key_dim: 128,
    value_dim: 128,
    head_order: HeadOrder::Grouped,
    decay: Decay::Head,
};
const CHANNELS: usize = 8192;
const TAPS: usize = 4;
/// States in turn, so that they come from memory as a model's layers do.
const LAYERS: usize = 12;

fn attention(criterion: &mut Criterion) {
    let cpu = cpu();
    let mut group = group(criterion, "attention");
    let AttentionShape {
        heads,
        kv_heads,
        head_dim,
        ..
    } = ATTENTION;
    for (name, n, start) in [
        ("decode at 4096", 1_usize, 4095_usize),
        ("decode at 512", 1, 511),
        ("prefill 512", 512, 0),
    ] {
        let layers = if n == 1 { LAYERS } else { 1 };
        let layers: Vec<Vec<KvPage>> = (0..layers)
            .map(|_| pages(&cpu, kv_heads, head_dim, start + n))
            .collect();
        let q = floats(n * heads * head_dim);
        let mut out = vec![0.0; q.len()];
        // A query reads what is before it and itself.
        let seen: usize = (start + 1..=start + n).sum();
        let work = Work {
            // Keys and values, binary16.
            bytes: (start + n) * kv_heads * head_dim * 4,
            multiply_adds: 2 * seen * heads * head_dim,
        };
        let mut turn = 0;
        bench(&mut group, name, work, || {
            turn += 1;
            let pages = &layers[turn % layers.len()];
            let span = AttentionSpan {
                q: &q,
                start,
                dropped: 0,
                pages,
                out: &mut out,
            };
            cpu.attention(&mut [span], ATTENTION, None).unwrap();
        });
    }
}

/// One token over one head of 576 elements that all queries share, as latent attention has it: keys
/// that are the values too kept once, and twice; and within a window.
fn shared_keys(criterion: &mut Criterion) {
    let cpu = cpu();
    let mut group = group(criterion, "latent attention");
    let (heads, head_dim, positions) = (128, 576, 4096);
    for (name, is_joint, window) in [
        ("kept once", true, None),
        ("kept twice", false, None),
        ("window of 512", true, Some(512)),
    ] {
        let layer = || match is_joint {
            true => joint_pages(&cpu, 1, head_dim, positions),
            false => pages(&cpu, 1, head_dim, positions),
        };
        let layers: Vec<Vec<KvPage>> = (0..4).map(|_| layer()).collect();
        let shape = AttentionShape {
            heads,
            kv_heads: 1,
            head_dim,
            scale: 0.07,
            window,
        };
        let q = floats(heads * head_dim);
        let mut out = vec![0.0; q.len()];
        let seen = window.unwrap_or(positions);
        let work = Work {
            bytes: seen * head_dim * if is_joint { 2 } else { 4 },
            multiply_adds: 2 * seen * heads * head_dim,
        };
        let mut turn = 0;
        bench(&mut group, name, work, || {
            turn += 1;
            let span = AttentionSpan {
                q: &q,
                start: positions - 1,
                dropped: 0,
                pages: &layers[turn % layers.len()],
                out: &mut out,
            };
            cpu.attention(&mut [span], shape, None).unwrap();
        });
    }
}

fn gated_delta(criterion: &mut Criterion) {
    delta_of(criterion, "gated delta", DELTA);
}

/// As Kimi-Linear has it.
fn keyed_delta(criterion: &mut Criterion) {
    let shape = DeltaShape {
        key_heads: DELTA.value_heads,
        decay: Decay::Key,
        ..DELTA
    };
    delta_of(criterion, "delta by key elements", shape);
}

fn delta_of(criterion: &mut Criterion, name: &str, shape: DeltaShape) {
    let cpu = cpu();
    let mut group = group(criterion, name);
    let DeltaShape {
        key_heads,
        value_heads,
        key_dim,
        value_dim,
        ..
    } = shape;
    let decays = value_heads * shape.head_decays();
    let state_len = value_heads * key_dim * value_dim;
    let mut states: Vec<[Vec<f32>; 2]> = (0..LAYERS)
        .map(|_| [floats(state_len), floats(state_len)])
        .collect();
    let (a_log, dt_bias) = (vec![1.0; value_heads], vec![-3.0; decays]);
    for n in [1, 64] {
        let qkv = floats(n * (2 * key_heads * key_dim + value_heads * value_dim));
        let (a, b) = (floats(n * decays), floats(n * value_heads));
        let mut out = vec![0.0; n * value_heads * value_dim];
        // Reading a state, writing the next; three products with it a token.
        let work = Work {
            bytes: 2 * state_len * 4,
            multiply_adds: 3 * n * state_len,
        };
        let mut turn = 0;
        bench(&mut group, &format!("n={n}"), work, || {
            turn += 1;
            let [state, next_state] = &mut states[turn % LAYERS];
            let span = DeltaSpan {
                qkv: &qkv,
                a: &a,
                b: &b,
                state,
                next_state,
                out: &mut out,
            };
            cpu.gated_delta(&mut [span], shape, &a_log, &dt_bias)
                .unwrap();
        });
    }
}

fn conv1d(criterion: &mut Criterion) {
    let cpu = cpu();
    let mut group = group(criterion, "conv1d");
    let weight = floats(TAPS * CHANNELS);
    let state = floats((TAPS - 1) * CHANNELS);
    let mut next_state = state.clone();
    for n in [1, 512] {
        let x = floats(n * CHANNELS);
        let mut out = vec![0.0; x.len()];
        let work = Work {
            bytes: (2 * x.len() + 2 * state.len() + weight.len()) * 4,
            multiply_adds: TAPS * x.len(),
        };
        bench(&mut group, &format!("n={n}"), work, || {
            let span = ConvSpan {
                x: &x,
                state: &state,
                next_state: &mut next_state,
                out: &mut out,
            };
            cpu.conv1d_silu(&mut [span], &weight, CHANNELS).unwrap();
        });
    }
}

criterion_group! {
    name = benches;
    config = criterion();
    targets = attention, shared_keys, gated_delta, keyed_delta, conv1d
}
criterion_main!(benches);
