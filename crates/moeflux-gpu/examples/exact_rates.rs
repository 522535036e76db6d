//! How long experts take on the device, with activations in f32 and rounded to 8 bits in the
//! processor's order; and whether the latter gives the processor's bits here.
//!
//! `exact_rates [REPEATS]`: a layer of 256 experts of 512 by 2,048 in 4 bits, 8 used, as in a model
//! of 35B parameters; then other codings.

#![allow(clippy::print_stdout)]

use std::error::Error;
use std::time::Instant;

use moeflux_gpu::exactness::{experts_agree, scalar_differences, scalar_functions_agree};
use moeflux_gpu::matrix::{Elements, Form};
use moeflux_gpu::ops::{self, ExpertSlots};
use moeflux_gpu::{DeviceChoice, Gpu, Recorder, View};
use moeflux_kernels::Coding;

const MOST_EXPERTS: usize = 256;
const TOP_K: usize = 8;

fn main() -> Result<(), Box<dyn Error>> {
    let repeats: usize = std::env::args().nth(1).map_or(Ok(200), |n| n.parse())?;
    let gpu = Gpu::open(DeviceChoice::Any)?;
    let mut r = Recorder::new(gpu.clone());
    println!("{}", gpu.line().name);
    let started = Instant::now();
    for has_fma in [true, false] {
        let found = scalar_differences(&mut r, has_fma)?;
        println!("own multiply-add {has_fma}: {found:?}");
    }
    println!(
        "scalar functions agree: {}",
        scalar_functions_agree(&mut r)?
    );
    let affine = |bits, group| Coding::Affine { bits, group };
    let codings = [
        (affine(4, 64), affine(4, 64)),
        (affine(4, 32), affine(4, 32)),
        (affine(8, 64), affine(8, 64)),
        (Coding::Q8_0, Coding::Q8_0),
        (Coding::Q4K, Coding::Q6K),
    ];
    for (gate, down) in codings {
        println!(
            "{gate:?}, {down:?}: agree {}",
            experts_agree(&mut r, gate, down)?
        );
    }
    println!("after {:.1?}", started.elapsed());
    for (gate, down) in codings {
        rates(&mut r, gate, down, repeats)?;
    }
    Ok(())
}

fn rates(
    r: &mut Recorder,
    gate: Coding,
    down: Coding,
    repeats: usize,
) -> Result<(), Box<dyn Error>> {
    let gpu = r.gpu().clone();
    let form = |coding, rows, cols| Form {
        rows,
        cols,
        elements: Elements::Coded(coding),
    };
    let (gate, down) = (form(gate, 512, 2048), form(down, 2048, 512));
    let starts = [0, gate.bytes(), 2 * gate.bytes()];
    let slot_bytes = starts[2] + down.bytes();
    let count = MOST_EXPERTS.min(gpu.most_bytes_bound() as usize / slot_bytes);
    let slots = gpu.buffer("experts", (slot_bytes * count) as u64)?;
    let table: Vec<u32> = (0..count as u32).collect();
    let table = gpu.buffer_with("table", bytemuck::cast_slice(&table))?;
    // Other experts every time.
    let ids: Vec<Vec<u32>> = (0..32)
        .map(|i| {
            (0..TOP_K)
                .map(|k| ((i * TOP_K + k) % count) as u32)
                .collect()
        })
        .collect();
    let mut lists = Vec::new();
    for ids in &ids {
        lists.push(gpu.buffer_with("ids", bytemuck::cast_slice(ids))?);
    }
    let x: Vec<f32> = (0..2048)
        .map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0)
        .collect();
    let x = gpu.buffer_with("x", bytemuck::cast_slice(&x))?;
    let act = gpu.buffer("act", (TOP_K * gate.rows * 4) as u64)?;
    let out = gpu.buffer("out", (TOP_K * down.rows * 4) as u64)?;
    for is_exact in [false, true, false, true] {
        let mut best = f64::INFINITY;
        for _ in 0..5 {
            let started = Instant::now();
            for i in 0..repeats {
                let experts = ExpertSlots {
                    slots: (&slots).into(),
                    slot_bytes,
                    table: (&table).into(),
                    ids: (&lists[i % lists.len()]).into(),
                    n: TOP_K,
                };
                let pair = (&gate, gate.place(starts[0]), gate.place(starts[1]));
                let (x, of_act) = (((&x).into(), TOP_K), ((&act).into(), 1));
                let last = (&down, down.place(starts[2]));
                if is_exact {
                    ops::expert_exact_swiglu(r, &experts, pair, x, (&act).into())?;
                    ops::expert_exact(r, &experts, last, of_act, (&out).into())?;
                } else {
                    ops::expert_swiglu(r, &experts, pair, x, (&act).into())?;
                    ops::expert_matvec(r, &experts, last, of_act, (&out).into())?;
                }
            }
            r.read(&[View::first(&out, 4)])?;
            best = best.min(started.elapsed().as_secs_f64() / repeats as f64);
        }
        let bytes = (TOP_K * slot_bytes) as f64;
        let name = if is_exact { "8 bits" } else { "f32" };
        let (us, rate) = (best * 1e6, bytes / best / 1e9);
        println!(
            "{:?} / {:?} {name}: {us:.1} us a layer, {rate:.0} GB/s",
            gate.elements, down.elements
        );
    }
    Ok(())
}
