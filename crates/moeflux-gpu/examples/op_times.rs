//! Times operations on the machine's device, in the shapes of a model of 35B parameters of which 3B
//! are active: `cargo run --release -p moeflux-gpu --example op_times`.

#![allow(clippy::print_stdout)]

use std::sync::Arc;
use std::time::Instant;

use moeflux::graph::StateDecl;
use moeflux::{KvType, RemoteStates};
use moeflux_gpu::matrix::{DeviceMatrix, Elements, Form};
use moeflux_gpu::ops::{self, CombineViews, DeltaViews, ExpertSlots, RouterShape, SpanRows};
use moeflux_gpu::state::{DeviceKv, DeviceStates};
use moeflux_gpu::{CpuExperts, DeviceBuffer, DeviceChoice, Gpu, GpuError, Recorder, View};
use moeflux_kernels::{
    AttentionShape, Coded, Coding, Decay, DeltaShape, HeadOrder, Matrix, MatrixData,
};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Runs of an operation that are timed together.
const RUNS: u32 = 200;

fn random(gpu: &Gpu, len: usize) -> Result<DeviceBuffer> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1u32 << 23) as f32 - 1.0
    };
    let values: Vec<f32> = (0..len).map(|_| next()).collect();
    Ok(gpu.buffer_with("random", bytemuck::cast_slice(&values))?)
}

/// Prints the mean time of `runs` runs in one submission, each after the one before.
fn time(
    gpu: &Arc<Gpu>,
    name: &str,
    runs: u32,
    mut run: impl FnMut(&mut Recorder) -> std::result::Result<(), GpuError>,
) -> Result<()> {
    let mut r = Recorder::new(Arc::clone(gpu));
    let end = gpu.buffer("end", 16)?;
    let mut best = f64::INFINITY;
    for _ in 0..4 {
        for _ in 0..runs {
            run(&mut r)?;
        }
        let begin = Instant::now();
        r.submit();
        r.read(&[View::from(&end)])?;
        best = best.min(begin.elapsed().as_secs_f64());
    }
    println!("{name:40} {:10.2} us", best * 1e6 / f64::from(runs));
    Ok(())
}

fn attention(gpu: &Arc<Gpu>, depth: usize, len: usize, runs: u32) -> Result<()> {
    let shape = AttentionShape {
        heads: 16,
        kv_heads: 2,
        head_dim: 256,
        scale: 0.0625,
        window: None,
    };
    let decl = StateDecl::key_value(2, 256);
    let mut state = DeviceStates(Arc::clone(gpu), CpuExperts::Off).make(&decl, KvType::F16);
    state.reserve(depth + len)?;
    let kv: &DeviceKv = state.as_any().downcast_ref().ok_or("no keys and values")?;
    let [q, out] = [random(gpu, len * 4096)?, random(gpu, len * 4096)?];
    let [k, v] = [random(gpu, len * 512)?, random(gpu, len * 512)?];
    let span = SpanRows {
        first_row: 0,
        len,
        start: depth,
    };
    time(gpu, &format!("kv_append {len} at {depth}"), runs, |r| {
        ops::kv_append(r, (&k).into(), (&v).into(), kv, span)
    })?;
    time(gpu, &format!("attention {len} at {depth}"), runs, |r| {
        ops::attention(r, (&q).into(), kv, (&out).into(), (shape, None), span)
    })
}

fn delta(gpu: &Arc<Gpu>, len: usize, runs: u32) -> Result<()> {
    let shape = DeltaShape {
        key_heads: 16,
        value_heads: 32,
        key_dim: 128,
        value_dim: 128,
        head_order: HeadOrder::Grouped,
        decay: Decay::Head,
    };
    let (qkv, out) = (random(gpu, len * 8192)?, random(gpu, len * 8192)?);
    let [a, b] = [random(gpu, len * 32)?, random(gpu, len * 32)?];
    let [a_log, dt_bias] = [random(gpu, 32)?, random(gpu, 32)?];
    let state = 32 * 128 * 128;
    let (current, next) = (random(gpu, state)?, random(gpu, state)?);
    let span = SpanRows {
        first_row: 0,
        len,
        start: 0,
    };
    let views = DeltaViews {
        qkv: (&qkv).into(),
        a: (&a).into(),
        b: (&b).into(),
        a_log: (&a_log).into(),
        dt_bias: (&dt_bias).into(),
        out: (&out).into(),
    };
    time(gpu, &format!("gated_delta {len}"), runs, |r| {
        ops::gated_delta(r, &views, (&current, &next), shape, span)
    })?;
    let weight = random(gpu, 4 * 8192)?;
    time(gpu, &format!("conv1d_silu {len}"), runs, |r| {
        let views = ((&qkv).into(), (&weight).into(), (&out).into());
        ops::conv1d_silu(r, views, (&current, &next), 8192, 4, span)
    })
}

fn rows(gpu: &Arc<Gpu>, n: usize) -> Result<()> {
    let [x, out] = [0; 2].map(|_| random(gpu, n * 8 * 2048));
    let (x, out) = (x?, out?);
    let weight = random(gpu, 2048)?;
    time(gpu, &format!("rms_norm {n} x 2048"), RUNS, |r| {
        ops::rms_norm(
            r,
            ((&x).into(), (&weight).into(), (&out).into()),
            n,
            2048,
            1e-6,
        )
    })?;
    let (ids, weights) = (random(gpu, n * 8)?, random(gpu, n * 8)?);
    let shape = RouterShape {
        experts: 256,
        top_k: 8,
        renormalize: true,
    };
    time(gpu, &format!("router {n} x 256"), RUNS, |r| {
        ops::router(r, ((&x).into(), (&ids).into(), (&weights).into()), shape, n)
    })?;
    let views = CombineViews {
        rows: (&x).into(),
        places: None,
        ids: (&ids).into(),
        weights: (&weights).into(),
        out: (&out).into(),
    };
    time(gpu, &format!("combine {n} x 8 x 2048"), RUNS, |r| {
        ops::combine(r, &views, 2048, 8, n)
    })
}

/// Products with 4-bit matrices, each run with another one, so that none is found in a cache.
fn products(gpu: &Arc<Gpu>, runs: u32) -> Result<()> {
    let coding = Coding::Affine { bits: 4, group: 64 };
    for (rows, cols) in [(2048, 2048), (512, 2048), (4096, 2048), (248_320, 2048)] {
        let lengths = coding.part_lengths(rows, cols)?;
        let (weights, scales) = (vec![0x5au8; lengths[0]], vec![0x3c00u16; lengths[1]]);
        let coded = Coded {
            coding,
            weights: &weights,
            scales: &scales,
            biases: &scales,
            global: 1.0,
        };
        let matrix = Matrix::new(rows, cols, MatrixData::Coded(coded))?;
        let bytes = Form::of(&matrix).bytes();
        let copies = ((200 << 20) / bytes).clamp(1, if runs > 1 { 100 } else { 1 });
        let mut matrices = Vec::new();
        for _ in 0..copies {
            matrices.push(DeviceMatrix::upload(gpu, &matrix)?);
        }
        let (x, out, mut next) = (random(gpu, cols)?, random(gpu, rows)?, 0);
        let name = format!("matvec {rows} x {cols} ({bytes} bytes)");
        time(gpu, &name, runs, |r| {
            next = (next + 1) % copies;
            ops::matvec(r, &matrices[next], (&x).into(), 1, (&out).into())
        })?;
    }
    Ok(())
}

/// Gates and ups of 8 of 256 experts, others in each run.
fn experts(gpu: &Arc<Gpu>, runs: u32) -> Result<()> {
    let elements = Elements::Coded(Coding::Affine { bits: 4, group: 64 });
    let form = Form {
        rows: 512,
        cols: 2048,
        elements,
    };
    let slot_bytes = 2 * form.bytes();
    let count = if runs > 1 { 256 } else { 8 };
    let slots = gpu.buffer("slots", (count * slot_bytes) as u64)?;
    let numbers: Vec<u32> = (0..count as u32).collect();
    let table = gpu.buffer_with("table", bytemuck::cast_slice(&numbers))?;
    let mut choices = Vec::new();
    for chosen in numbers.chunks_exact(8) {
        choices.push(gpu.buffer_with("ids", bytemuck::cast_slice(chosen))?);
    }
    let (x, out, mut next) = (random(gpu, 2048)?, random(gpu, 8 * 512)?, 0);
    time(
        gpu,
        &format!("expert_swiglu 8 ({} bytes)", 8 * slot_bytes),
        runs,
        |r| {
            next = (next + 1) % choices.len();
            let slots = ExpertSlots {
                slots: (&slots).into(),
                slot_bytes,
                table: (&table).into(),
                ids: (&choices[next]).into(),
                n: 8,
            };
            let places = (&form, form.place(0), form.place(form.bytes()));
            ops::expert_swiglu(r, &slots, places, ((&x).into(), 8), (&out).into())
        },
    )
}

fn main() -> Result<()> {
    let gpu = Gpu::open(DeviceChoice::Any)?;
    println!("{:?}", gpu.line());
    // On a processor only that it runs is of interest.
    let (runs, long) = if gpu.line().is_software {
        (1, 64)
    } else {
        (RUNS, 2048)
    };
    products(&gpu, runs)?;
    experts(&gpu, runs)?;
    for n in [1, long] {
        rows(&gpu, n)?;
        delta(&gpu, n, if n == 1 { runs } else { 4 })?;
    }
    for depth in [0, 1024, long * 4] {
        attention(&gpu, depth, 1, runs)?;
    }
    attention(&gpu, 0, long, 4)?;
    let (logits, id) = (random(&gpu, 248_320)?, random(&gpu, 4)?);
    time(&gpu, "argmax 248320", runs, |r| {
        ops::argmax(r, (&logits).into(), (&id).into(), 1, 248_320)
    })
}
