//! The operations between the large ones, which must not be noticed, and the cost of a parallel
//! loop: at the shapes of Qwen3.6-35B-A3B, one token and many.

#![allow(missing_docs, clippy::unwrap_used)] // criterion's macros; a command for developers

mod common;

use std::hint::black_box;

use common::{Work, bench, cpu, criterion, floats, group};
use criterion::{Criterion, criterion_group, criterion_main};
use moeflux_kernels::{Coding, Quantized, RopeStyle, Rounding, arrange};

const HIDDEN: usize = 2048;
const HEADS: usize = 16;
const HEAD_DIM: usize = 256;
const EXPERTS: usize = 256;
const TOP_K: usize = 8;
const INTERMEDIATE: usize = 512;
const ROUNDING: Rounding = Rounding { group: 64, zero: 0 };
const TOKENS: [usize; 2] = [1, 512];

/// Work that reads and writes so many f32 values.
fn values(count: usize) -> Work {
    Work {
        bytes: 4 * count,
        multiply_adds: 0,
    }
}

/// From rows as files have them to tiles: what every expert that is read goes through.
fn arranging(criterion: &mut Criterion) {
    let mut group = group(criterion, "arrange");
    for (name, coding) in [
        ("affine, 4 bits", Coding::Affine { bits: 4, group: 64 }),
        ("Q4_0", Coding::Q4_0),
        ("Q4_K", Coding::Q4K),
        ("Q6_K", Coding::Q6K),
    ] {
        let lengths = coding.part_lengths(INTERMEDIATE, HIDDEN).unwrap();
        let [mut weights, mut scales, mut biases] = [1, 2, 2]
            .iter()
            .zip(lengths)
            .map(|(bytes, count)| vec![0x3c_u8; bytes * count])
            .collect::<Vec<_>>()
            .try_into()
            .unwrap();
        let bytes = weights.len() + scales.len() + biases.len();
        let work = Work {
            bytes,
            multiply_adds: 0,
        };
        bench(&mut group, name, work, || {
            arrange(
                coding,
                INTERMEDIATE,
                HIDDEN,
                &mut weights,
                &mut scales,
                &mut biases,
            )
            .unwrap();
        });
    }
}

fn rows(criterion: &mut Criterion) {
    let cpu = cpu();
    for n in TOKENS {
        let mut group = group(criterion, &format!("small n={n}"));
        let x = floats(n * HIDDEN);
        let mut out = vec![0.0; x.len()];
        let weight = floats(HIDDEN);
        bench(&mut group, "rms_norm", values(2 * x.len()), || {
            cpu.rms_norm(&x, &weight, 1e-6, &mut out).unwrap();
        });
        bench(&mut group, "add", values(3 * x.len()), || {
            cpu.add(&x, &x, &mut out).unwrap();
        });
        let mut quantized = Quantized::default();
        let work = values(x.len() + x.len() / 4);
        bench(&mut group, "quantize", work, || {
            quantized.quantize(&cpu, &x, n, HIDDEN, ROUNDING).unwrap();
        });
        let (gate, up) = (
            floats(n * TOP_K * INTERMEDIATE),
            floats(n * TOP_K * INTERMEDIATE),
        );
        let mut out = vec![0.0; gate.len()];
        bench(&mut group, "swiglu", values(3 * gate.len()), || {
            cpu.swiglu(&gate, &up, &mut out).unwrap();
        });
        let q = floats(n * HEADS * HEAD_DIM);
        let mut out = vec![0.0; q.len()];
        let positions: Vec<u32> = (0..n as u32).collect();
        let frequencies = floats(HEAD_DIM / 8);
        bench(&mut group, "rope", values(2 * q.len()), || {
            let style = RopeStyle::HalfSplit;
            cpu.rope(
                &q,
                &positions,
                HEADS,
                HEAD_DIM,
                &frequencies,
                1.0,
                style,
                &mut out,
            )
            .unwrap();
        });
    }
}

fn experts(criterion: &mut Criterion) {
    let cpu = cpu();
    for n in TOKENS {
        let mut group = group(criterion, &format!("routing n={n}"));
        let logits = floats(n * EXPERTS);
        let (mut ids, mut weights) = (vec![0; n * TOP_K], vec![0.0; n * TOP_K]);
        bench(&mut group, "router", values(logits.len()), || {
            cpu.route(&logits, EXPERTS, TOP_K, true, &mut ids, &mut weights)
                .unwrap();
        });
        let rows = floats(n * TOP_K * HIDDEN);
        let offsets: Vec<u32> = (0..=n as u32).map(|token| token * TOP_K as u32).collect();
        let entries: Vec<(u32, f32)> = (0..(n * TOP_K) as u32).map(|row| (row, 0.125)).collect();
        let mut out = vec![0.0; n * HIDDEN];
        bench(
            &mut group,
            "combine",
            values(rows.len() + out.len()),
            || {
                cpu.combine(&rows, &offsets, &entries, HIDDEN, &mut out)
                    .unwrap();
            },
        );
    }
}

/// An empty loop: what splitting work costs, with as many tasks as threads and with more.
fn dispatch(criterion: &mut Criterion) {
    let cpu = cpu();
    let mut group = group(criterion, "parallel loop");
    for tasks in [cpu.pool().threads(), 8 * cpu.pool().threads()] {
        bench(
            &mut group,
            &format!("{tasks} empty tasks"),
            Work::default(),
            || {
                cpu.pool().run(tasks, &|task| {
                    black_box(task);
                });
            },
        );
    }
}

criterion_group! {
    name = benches;
    config = criterion();
    targets = arranging, rows, experts, dispatch
}
criterion_main!(benches);
