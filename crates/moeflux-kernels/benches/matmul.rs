//! Matrix products: decode (one token) and prefill, every codec, and several experts at once.

#![allow(missing_docs, clippy::unwrap_used)] // criterion's macros; a command for developers

mod common;

use common::{CODECS, Codec, Work, bench, cpu, criterion, floats, group};
use criterion::{Criterion, criterion_group, criterion_main};
use moeflux_kernels::{Cpu, MatmulJob};

const ROWS: usize = 2048;
const COLS: usize = 2048;
/// An expert of Qwen3.6-35B-A3B.
const EXPERT_ROWS: usize = 512;

fn products(criterion: &mut Criterion) {
    let cpu = cpu();
    for n in [1, 8, 64, 512] {
        let mut group = group(criterion, &format!("matmul n={n}"));
        for (name, codec) in CODECS {
            let x = floats(n * COLS);
            let quantized = codec.quantized(&cpu, &x, COLS);
            let mut out = vec![0.0; n * ROWS];
            let work = Work {
                bytes: codec.bytes(ROWS, COLS),
                multiply_adds: n * ROWS * COLS,
            };
            let mut turn = 0;
            bench(&mut group, name, work, || {
                turn += 1;
                let job = MatmulJob {
                    weights: codec.matrix(turn, ROWS, COLS),
                    x: &x,
                    quantized: quantized.as_ref(),
                    tokens: None,
                    out: &mut out,
                };
                cpu.matmul(&mut [job]).unwrap();
            });
        }
    }
}

/// Gate projections of several experts in one call, some tokens each.
fn experts(criterion: &mut Criterion) {
    let cpu = cpu();
    let mut group = group(criterion, "experts");
    for (experts, tokens_each) in [(8, 1), (64, 2), (64, 16)] {
        for (name, codec) in &CODECS[..2] {
            let name = format!("{experts} of {tokens_each} tokens, {name}");
            let work = Work {
                bytes: experts * codec.bytes(EXPERT_ROWS, COLS),
                multiply_adds: experts * tokens_each * EXPERT_ROWS * COLS,
            };
            let mut run = expert_call(&cpu, *codec, experts, tokens_each);
            bench(&mut group, &name, work, &mut run);
        }
    }
}

fn expert_call(
    cpu: &Cpu,
    codec: Codec,
    experts: usize,
    tokens_each: usize,
) -> impl FnMut() + use<'_> {
    let n = tokens_each.max(8);
    let x = floats(n * COLS);
    let quantized = codec.quantized(cpu, &x, COLS);
    let tokens: Vec<u32> = (0..tokens_each as u32).collect();
    let mut out = vec![0.0; experts * tokens_each * EXPERT_ROWS];
    let mut turn = 0;
    move || {
        let outs = out.chunks_mut(tokens_each * EXPERT_ROWS);
        let mut jobs: Vec<MatmulJob<'_>> = outs
            .map(|out| {
                turn += 1;
                MatmulJob {
                    weights: codec.matrix(turn, EXPERT_ROWS, COLS),
                    x: &x,
                    quantized: quantized.as_ref(),
                    tokens: Some(&tokens),
                    out,
                }
            })
            .collect();
        cpu.matmul(&mut jobs).unwrap();
    }
}

criterion_group! {
    name = benches;
    config = criterion();
    targets = products, experts
}
criterion_main!(benches);
