//! Speed of everything but the matrix products on this machine, at the shapes of a 35B model:
//! `cargo run --release -p moeflux-kernels --example state_speed [threads] [isa] [name]`.
//!
//! The best of several calls counts, so that a busy machine's pauses do not. `name` picks the
//! measurements whose names begin with it.

#![allow(clippy::print_stdout, clippy::unwrap_used)] // a command for developers

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use moeflux_kernels::{
    AttentionShape, AttentionSpan, ConvSpan, Cpu, DeltaShape, DeltaSpan, HeadOrder, Isa,
    KV_PAGE_TOKENS, KvPage, KvType, RopeStyle,
};

const HIDDEN: usize = 2048;
const CHANNELS: usize = 8192;
const ATTENTION: AttentionShape = AttentionShape {
    heads: 16,
    kv_heads: 2,
    head_dim: 256,
    scale: 0.0625,
};
const DELTA: DeltaShape = DeltaShape {
    key_heads: 16,
    value_heads: 32,
    key_dim: 128,
    value_dim: 128,
    head_order: HeadOrder::Grouped,
};
/// Layers whose state passes through the caches between two calls of one of them.
const LAYERS: usize = 30;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let threads = arguments.next().map_or(2, |text| text.parse().unwrap());
    let isa = arguments
        .next()
        .map_or(Isa::detect(), |text| text.parse().unwrap());
    let only = arguments.next().unwrap_or_default();
    let cpu = Cpu::new(isa, threads).unwrap();
    println!("{isa}, {threads} threads");
    let _settled = cpu.pool().settle();
    let run = |name: &str, measurement: &dyn Fn(&Cpu)| {
        if name.starts_with(&only) {
            measurement(&cpu);
        }
    };
    run("dispatch", &dispatch);
    run("attention decode", &|cpu| {
        for kv_type in [KvType::F16, KvType::F32] {
            attention(cpu, kv_type, 1, 4095);
        }
    });
    run("attention prefill", &|cpu| {
        for (n, start) in [(128, 0), (512, 0)] {
            attention(cpu, KvType::F16, n, start);
            attention(cpu, KvType::F32, n, start);
        }
        attention(cpu, KvType::F16, 64, 3968);
    });
    run("append", &append);
    run("delta decode", &|cpu| delta(cpu, 1));
    run("delta prefill", &|cpu| delta(cpu, 64));
    run("conv", &convolution);
    run("small", &small);
}

/// The best time of calls within half a second.
fn best(mut call: impl FnMut(usize)) -> f64 {
    let (start, mut best) = (Instant::now(), f64::INFINITY);
    let mut turn = 0;
    while turn < 5 || start.elapsed() < Duration::from_millis(500) {
        let begin = Instant::now();
        call(turn);
        best = best.min(begin.elapsed().as_secs_f64());
        turn += 1;
    }
    best
}

fn floats(len: usize) -> Vec<f32> {
    (0..len)
        .map(|i| (i as u32).wrapping_mul(2_654_435_761) as f32 / 2e9 - 1.0)
        .collect()
}

fn dispatch(cpu: &Cpu) {
    const LOOPS: usize = 1000;
    let tasks = cpu.pool().threads();
    let time = best(|_| (0..LOOPS).for_each(|_| cpu.pool().run(tasks, &|_| {})));
    println!("dispatch           {:8.2} us", time / LOOPS as f64 * 1e6);
    // A loop whose tasks wait for each other has all threads at work.
    let arrived = AtomicUsize::new(0);
    let time = best(|_| {
        for turn in 1..=LOOPS {
            cpu.pool().run(tasks, &|_| {
                arrived.fetch_add(1, SeqCst);
                while arrived.load(SeqCst) < turn * tasks {
                    std::hint::spin_loop();
                }
            });
        }
        arrived.store(0, SeqCst);
    });
    println!("all threads        {:8.2} us", time / LOOPS as f64 * 1e6);
}

fn attention(cpu: &Cpu, kv_type: KvType, n: usize, start: usize) {
    let AttentionShape {
        heads,
        kv_heads,
        head_dim,
        ..
    } = ATTENTION;
    let end = start + n;
    // Several layers, so that decode finds its pages in memory.
    let layers = if n == 1 { 6 } else { 1 };
    let kv = floats(end * kv_heads * head_dim);
    let layers: Vec<Vec<KvPage>> = (0..layers)
        .map(|_| {
            let page = |_| KvPage::new(kv_type, kv_heads, head_dim);
            let mut pages: Vec<KvPage> = (0..end.div_ceil(KV_PAGE_TOKENS)).map(page).collect();
            cpu.kv_append(&mut pages, 0, &kv, &kv).unwrap();
            pages
        })
        .collect();
    let (q, mut out) = (
        floats(n * heads * head_dim),
        vec![0.0; n * heads * head_dim],
    );
    let time = best(|turn| {
        let span = AttentionSpan {
            q: &q,
            start,
            pages: &layers[turn % layers.len()],
            out: &mut out,
        };
        cpu.attention(&mut [span], ATTENTION).unwrap();
    });
    let pairs: usize = (start + 1..=end).sum();
    let bytes = 2 * end * kv_heads * head_dim * kv_type.bytes();
    println!(
        "attention {kv_type} n={n:3} at {start:4}: {:8.3} ms {:6.1} GMAC/s {:6.1} GB/s",
        time * 1e3,
        (2 * pairs * heads * head_dim) as f64 / time / 1e9,
        bytes as f64 / time / 1e9
    );
}

fn append(cpu: &Cpu) {
    for n in [1, 512] {
        let mut pages = vec![KvPage::new(KvType::F16, 2, 256); 8];
        let kv = floats(n * 512);
        let time = best(|_| cpu.kv_append(&mut pages, 0, &kv, &kv).unwrap());
        println!("append n={n:3}       {:8.2} us", time * 1e6);
    }
}

fn delta(cpu: &Cpu, n: usize) {
    let heads = DELTA.value_heads;
    let (qkv, gates) = (floats(n * CHANNELS), floats(n * heads));
    let len = heads * DELTA.key_dim * DELTA.value_dim;
    // Aligned as in the engine.
    let mut memory = vec![0.01; 2 * LAYERS * len + 1024];
    let skip = memory.as_ptr().align_offset(4096);
    let mut states: Vec<&mut [f32]> = memory[skip..].chunks_exact_mut(2 * len).collect();
    let mut out = vec![0.0; n * heads * DELTA.value_dim];
    let time = best(|turn| {
        let (state, next_state) = states[turn % LAYERS].split_at_mut(len);
        let span = DeltaSpan {
            qkv: &qkv,
            a: &gates,
            b: &gates,
            state,
            next_state,
            out: &mut out,
        };
        let (a_log, dt_bias) = (&gates[..heads], &gates[..heads]);
        cpu.gated_delta(&mut [span], DELTA, a_log, dt_bias).unwrap();
    });
    println!(
        "delta n={n:3}        {:8.1} us {:6.1} GB/s {:6.2} us a token",
        time * 1e6,
        (len * 8) as f64 / time / 1e9,
        time / n as f64 * 1e6
    );
}

fn convolution(cpu: &Cpu) {
    for n in [1, 64] {
        let (x, weight) = (floats(n * CHANNELS), floats(4 * CHANNELS));
        let mut states = vec![[floats(3 * CHANNELS), vec![0.0; 3 * CHANNELS]]; LAYERS];
        let mut out = vec![0.0; n * CHANNELS];
        let time = best(|turn| {
            let [state, next_state] = &mut states[turn % LAYERS];
            let span = ConvSpan {
                x: &x,
                state,
                next_state,
                out: &mut out,
            };
            cpu.conv1d_silu(&mut [span], &weight, CHANNELS).unwrap();
        });
        println!("conv n={n:3}         {:8.2} us", time * 1e6);
    }
}

fn small(cpu: &Cpu) {
    let report = |name: &str, time: f64| println!("{name:18} {:8.2} us", time * 1e6);
    let (x, y) = (floats(CHANNELS), floats(CHANNELS));
    let mut out = vec![0.0; CHANNELS];
    let hidden = &mut out[..HIDDEN];
    report(
        "rms_norm",
        best(|_| {
            cpu.rms_norm(&x[..HIDDEN], &y[..HIDDEN], 1e-6, hidden)
                .unwrap()
        }),
    );
    report(
        "add",
        best(|_| cpu.add(&x[..HIDDEN], &y[..HIDDEN], hidden).unwrap()),
    );
    let wide = &mut out[..4096];
    let norm = |wide: &mut [f32]| cpu.rms_norm_gated(&x[..4096], &y[..4096], &y[..128], 1e-6, wide);
    report("rms_norm_gated", best(|_| norm(wide).unwrap()));
    report(
        "sigmoid_mul",
        best(|_| cpu.sigmoid_mul(&x[..4096], &y[..4096], wide).unwrap()),
    );
    report(
        "swiglu 512",
        best(|_| cpu.swiglu(&x[..512], &y[..512], &mut wide[..512]).unwrap()),
    );
    let inv_freq: Vec<f32> = (0..32).map(|i| 0.6f32.powi(i)).collect();
    let rope = |wide: &mut [f32]| {
        let style = RopeStyle::HalfSplit;
        cpu.rope(&x[..4096], &[4000], 16, 256, &inv_freq, 1.0, style, wide)
    };
    report("rope", best(|_| rope(wide).unwrap()));
    let (mut ids, mut weights) = ([0; 8], [0.0; 8]);
    report(
        "route",
        best(|_| {
            cpu.route(&x[..256], 256, 8, true, &mut ids, &mut weights)
                .unwrap()
        }),
    );
    let rows = floats(8 * HIDDEN);
    let entries: Vec<(u32, f32)> = (0..8).map(|row| (row, 0.1)).collect();
    report(
        "combine",
        best(|_| {
            cpu.combine(&rows, &[0, 8], &entries, HIDDEN, &mut wide[..HIDDEN])
                .unwrap()
        }),
    );
    report(
        "split_pairs",
        best(|_| {
            let (first, second) = out.split_at_mut(4096);
            cpu.split_pairs(&x, 16, 256, first, second).unwrap();
        }),
    );
}
