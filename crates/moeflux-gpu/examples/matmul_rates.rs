//! Times products by tiles on the machine's device, in the shapes of a prompt of 2,048 tokens of a
//! model of 35B parameters of which 3B are active, and holds each to the products of single
//! vectors: `cargo run --release -p moeflux-gpu --example matmul_rates`.

#![allow(clippy::print_stdout)]

use std::sync::Arc;
use std::time::Instant;

use moeflux_gpu::matrix::{DeviceMatrix, Elements, Form};
use moeflux_gpu::ops::matmul::{self, Arithmetic, Tile, Vectors};
use moeflux_gpu::ops::{self, ExpertSlots};
use moeflux_gpu::{DeviceBuffer, DeviceChoice, Gpu, GpuError, Recorder, View};
use moeflux_kernels::{Coded, Coding, Matrix, MatrixData};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const CODING: Coding = Coding::Affine { bits: 4, group: 64 };

struct Random(u32);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.0 >> 8
    }

    /// In -1..1.
    fn float(&mut self) -> f32 {
        self.next() as f32 / (1u32 << 23) as f32 - 1.0
    }
}

fn random(gpu: &Gpu, len: usize) -> Result<DeviceBuffer> {
    let mut random = Random(1);
    let values: Vec<f32> = (0..len).map(|_| random.float()).collect();
    Ok(gpu.buffer_with("random", bytemuck::cast_slice(&values))?)
}

/// The mean time of a few runs in one submission, in seconds.
fn time(
    gpu: &Arc<Gpu>,
    mut run: impl FnMut(&mut Recorder) -> std::result::Result<(), GpuError>,
) -> Result<f64> {
    let runs = if gpu.line().is_software { 1 } else { 20 };
    let mut r = Recorder::new(Arc::clone(gpu));
    let end = gpu.buffer("end", 16)?;
    let mut best = f64::INFINITY;
    // The clock rises with the load, so that it takes a while.
    let start = Instant::now();
    let least = if gpu.line().is_software { 0.0 } else { 0.25 };
    while best.is_infinite() || start.elapsed().as_secs_f64() < least {
        for _ in 0..runs {
            run(&mut r)?;
        }
        let begin = Instant::now();
        r.submit();
        r.read(&[View::from(&end)])?;
        best = best.min(begin.elapsed().as_secs_f64());
    }
    Ok(best / f64::from(runs))
}

/// Relative L2 error of the first elements.
fn error(gpu: &Arc<Gpu>, found: &DeviceBuffer, expected: &DeviceBuffer, len: usize) -> Result<f64> {
    let mut r = Recorder::new(Arc::clone(gpu));
    let bytes = (len * 4) as u64;
    let views = [View::first(found, bytes), View::first(expected, bytes)];
    let values: Vec<f32> = bytemuck::pod_collect_to_vec(&r.read(&views)?);
    let (found, expected) = values.split_at(len);
    let square = |v: f64| v * v;
    let pairs = found.iter().zip(expected);
    let off: f64 = pairs
        .map(|(&a, &b)| square(f64::from(a) - f64::from(b)))
        .sum();
    let norm: f64 = expected.iter().map(|&b| square(f64::from(b))).sum();
    Ok((off / norm).sqrt())
}

fn report(name: &str, tile: &str, seconds: f64, flops: f64, error: f64) {
    let rate = flops / seconds / 1e12;
    println!(
        "{name:24} {tile:36} {:9.1} us {rate:7.1} TFLOP/s, error {error:.1e}",
        seconds * 1e6
    );
}

/// Tiles to compare: those given, as `vectors x rows x depth x vectors x rows of 32 threads`.
fn tiles(gpu: &Gpu) -> Vec<Tile> {
    let Some(size) = gpu.matrix_unit() else {
        return vec![Tile::of(gpu, true)];
    };
    let mut given = Vec::new();
    for word in std::env::args().skip(1) {
        let numbers: Vec<u32> = word.split('x').filter_map(|n| n.parse().ok()).collect();
        if let [vectors, rows, depth, m, n] = numbers[..] {
            let part = (m, n);
            let arithmetic = Arithmetic::Unit(size);
            given.push(Tile {
                vectors,
                rows,
                depth,
                part,
                arithmetic,
            });
        }
    }
    if !given.is_empty() {
        return given;
    }
    let tile = |vectors, rows, depth, part| Tile {
        vectors,
        rows,
        depth,
        part,
        arithmetic: Arithmetic::Unit(size),
    };
    vec![
        tile(64, 128, 32, (32, 64)),
        tile(64, 128, 64, (32, 64)),
        tile(128, 128, 32, (32, 64)),
        tile(128, 128, 64, (32, 64)),
        tile(128, 256, 32, (64, 64)),
        tile(64, 256, 32, (64, 64)),
        tile(64, 128, 32, (64, 64)),
        tile(32, 128, 64, (32, 64)),
    ]
}

fn shown(tile: &Tile) -> String {
    let Tile {
        vectors,
        rows,
        depth,
        part,
        arithmetic,
    } = tile;
    format!(
        "{vectors}x{rows}x{depth} {}x{} {arithmetic:?}",
        part.0, part.1
    )
}

fn dense(gpu: &Arc<Gpu>, n: usize, (rows, cols): (usize, usize), exact: bool) -> Result<()> {
    let lengths = CODING.part_lengths(rows, cols)?;
    let mut random_bits = Random(7);
    let weights: Vec<u8> = (0..lengths[0]).map(|_| random_bits.next() as u8).collect();
    // Between -8 and 7 hundredths.
    let scales = vec![0x3c23u16; lengths[1]];
    let biases = vec![0xbda4u16; lengths[2]];
    let coded = Coded {
        coding: CODING,
        weights: &weights,
        scales: &scales,
        biases: &biases,
        global: 1.0,
    };
    let matrix = Matrix::new(rows, cols, MatrixData::Coded(coded))?;
    let matrix = DeviceMatrix::upload(gpu, &matrix)?;
    let x = random(gpu, n * cols)?;
    let (expected, out) = (
        gpu.buffer("out", (n * rows * 4) as u64)?,
        random(gpu, n * rows)?,
    );
    let flops = 2.0 * (n * rows * cols) as f64;
    let name = format!("{n} x {rows} x {cols}");
    let slow = time(gpu, |r| {
        ops::matvec(r, &matrix, (&x).into(), n, (&expected).into())
    })?;
    report(&name, "one by one", slow, flops, 0.0);
    let mut all = vec![Tile::of(gpu, true)];
    if !exact {
        all = tiles(gpu);
        let tile = all[0];
        let seconds = time(gpu, |r| {
            let names = Vectors::INPUTS;
            matmul::vectors(r, tile, names, (&x).into(), (0, n), cols).map(drop)
        })?;
        report(&name, "rounding", seconds, 0.0, 0.0);
    }
    for tile in all {
        let mut r = Recorder::new(Arc::clone(gpu));
        let vectors = matmul::vectors(&mut r, tile, Vectors::INPUTS, (&x).into(), (0, n), cols)?;
        r.submit();
        let timed = time(gpu, |r| {
            matmul::matmul(r, tile, &matrix, &vectors, (&out).into())
        });
        match timed {
            Ok(seconds) => {
                let error = error(gpu, &out, &expected, n * rows)?;
                report(&name, &shown(&tile), seconds, flops, error);
            }
            Err(problem) => println!("{name:24} {}: {problem}", shown(&tile)),
        }
    }
    Ok(())
}

fn experts(gpu: &Arc<Gpu>, n: usize) -> Result<()> {
    const EXPERTS: usize = 256;
    const TOP_K: usize = 8;
    let form = |rows, cols| Form {
        rows,
        cols,
        elements: Elements::Coded(CODING),
    };
    let (up, down) = (form(512, 2048), form(2048, 512));
    let slot_bytes = 2 * up.bytes() + down.bytes();
    let count = if gpu.line().is_software { 4 } else { EXPERTS };
    let mut bits = Random(3);
    // Small scales everywhere: any 16 bits below 0x3c00 are, as integers they are any.
    let words: Vec<u16> = (0..slot_bytes / 2)
        .map(|_| bits.next() as u16 & 0x3bff)
        .collect();
    let slots = gpu.buffer("slots", (count * slot_bytes) as u64)?;
    for slot in 0..count {
        gpu.write(
            &slots,
            (slot * slot_bytes) as u64,
            bytemuck::cast_slice(&words),
        );
    }
    let table: Vec<u32> = (0..count as u32).collect();
    let table = gpu.buffer_with("table", bytemuck::cast_slice(&table))?;
    // Skewed: the product of two uniform numbers.
    let mut skewed = || (bits.next() as u64 % count as u64 * (bits.next() as u64 % 1024)) >> 10;
    let ids: Vec<u32> = (0..n * TOP_K).map(|_| skewed() as u32).collect();
    let ids = gpu.buffer_with("ids", bytemuck::cast_slice(&ids))?;
    let slots = ExpertSlots {
        slots: (&slots).into(),
        slot_bytes,
        table: (&table).into(),
        ids: (&ids).into(),
        n: n * TOP_K,
    };
    let x = random(gpu, n * 2048)?;
    let size = |width: usize| (n * TOP_K * width * 4) as u64;
    let expected = (
        gpu.buffer("act", size(512))?,
        gpu.buffer("out", size(2048))?,
    );
    let found = (
        gpu.buffer("act", size(512))?,
        gpu.buffer("out", size(2048))?,
    );
    let places = [up.place(0), up.place(up.bytes())];
    let down_place = down.place(2 * up.bytes());
    let mut r = Recorder::new(Arc::clone(gpu));
    let both = (&up, places[0], places[1]);
    ops::expert_swiglu(
        &mut r,
        &slots,
        both,
        ((&x).into(), TOP_K),
        (&expected.0).into(),
    )?;
    let act = ((&expected.0).into(), 1);
    ops::expert_matvec(
        &mut r,
        &slots,
        (&down, down_place),
        act,
        (&expected.1).into(),
    )?;
    r.submit();
    let flops = 2.0 * (n * TOP_K * 512 * 2048) as f64;
    for tile in tiles(gpu) {
        let lists = (slots.ids, slots.table);
        let vectors = tile.vectors as usize;
        let grouped = time(gpu, |r| {
            ops::group_experts(r, lists, (0, n * TOP_K), count, vectors).map(drop)
        })?;
        let mut r = Recorder::new(Arc::clone(gpu));
        let groups = ops::group_experts(&mut r, lists, (0, n * TOP_K), count, vectors)?;
        let xs = matmul::vectors(&mut r, tile, Vectors::INPUTS, (&x).into(), (0, n), 2048)?;
        let act = (&expected.0).into();
        let acts = matmul::vectors(&mut r, tile, Vectors::BETWEEN, act, (0, n * TOP_K), 512)?;
        r.submit();
        let with = (&slots, &groups);
        let first = time(gpu, |r| {
            let out = (&found.0).into();
            matmul::expert_matmul(r, tile, with, (&up, &places), (&xs, TOP_K), out)
        });
        let second = time(gpu, |r| {
            let out = (&found.1).into();
            matmul::expert_matmul(r, tile, with, (&down, &[down_place]), (&acts, 1), out)
        });
        let (first, second) = match (first, second) {
            (Ok(first), Ok(second)) => (first, second),
            (Err(problem), _) | (_, Err(problem)) => {
                println!("experts {}: {problem}", shown(&tile));
                continue;
            }
        };
        let errors = (
            error(gpu, &found.0, &expected.0, n * TOP_K * 512)?,
            error(gpu, &found.1, &expected.1, n * TOP_K * 2048)?,
        );
        report(
            "experts: gate, up",
            &shown(&tile),
            first,
            2.0 * flops,
            errors.0,
        );
        report("experts: down", &shown(&tile), second, flops, errors.1);
        report("experts: groups", &shown(&tile), grouped, 0.0, 0.0);
    }
    Ok(())
}

fn main() -> Result<()> {
    let gpu = Gpu::open(DeviceChoice::Any)?;
    println!("{:?}, matrix unit {:?}", gpu.line(), gpu.matrix_unit());
    // On a processor only that it runs is of interest.
    let n = if gpu.line().is_software { 70 } else { 2048 };
    dense(&gpu, n, (12_288, 2048), false)?;
    dense(&gpu, n, (2048, 4096), false)?;
    experts(&gpu, n)?;
    for rows in [256, 64, 1] {
        dense(&gpu, n, (rows, 2048), true)?;
    }
    Ok(())
}
