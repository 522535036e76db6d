//! Speed of the matrix products on this machine:
//! `cargo run --release -p moeflux-kernels --example speed [threads] [isa] [coding] [tokens]`.
//!
//! Slices of a matrix larger than the caches are multiplied in turn; the best slice counts, so
//! that a busy machine's pauses do not.

#![allow(clippy::print_stdout, clippy::unwrap_used)] // a command for developers

use std::time::Instant;

use moeflux_kernels::{Coded, Coding, Cpu, Isa, MatmulJob, Matrix, MatrixData, Quantized};

const ROWS: usize = 65_536;
const COLS: usize = 2048;
const SLICE: usize = 2048;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let threads = arguments.next().map_or(2, |text| text.parse().unwrap());
    let isa = arguments
        .next()
        .map_or(Isa::detect(), |text| text.parse().unwrap());
    let cpu = Cpu::new(isa, threads).unwrap();
    println!("{isa}, {threads} threads");
    let mut bytes = memmap2::MmapMut::map_anon(ROWS * COLS).unwrap();
    #[cfg(target_os = "linux")]
    bytes.advise(memmap2::Advice::HugePage).unwrap();
    for (i, byte) in bytes.iter_mut().enumerate() {
        // Any two bytes are a small, normal binary16: others would be slow to convert.
        *byte = ((i * 2_654_435_761) >> 16) as u8 & 0x0f | 0x20;
    }
    let words = vec![0x3c00u16; ROWS * COLS / 16];
    let wanted = arguments.next();
    let codings = [
        ("q4_0", Coding::Q4_0),
        ("affine 4", Coding::Affine { bits: 4, group: 64 }),
        ("q8_0", Coding::Q8_0),
        ("affine 8", Coding::Affine { bits: 8, group: 64 }),
        ("q4_k", Coding::Q4K),
        ("q5_k", Coding::Q5K),
        ("q6_k", Coding::Q6K),
        ("affine 3", Coding::Affine { bits: 3, group: 64 }),
    ];
    for (name, coding) in codings {
        if wanted.as_ref().is_some_and(|wanted| wanted != name) {
            continue;
        }
        let [slice, scales, _] = coding.part_lengths(SLICE, COLS).unwrap();
        let slices = bytes.len() / slice;
        let data = |turn: usize| {
            let at = turn % slices;
            MatrixData::Coded(Coded {
                coding,
                weights: &bytes[at * slice..][..slice],
                scales: &words[..scales],
                biases: &words[..scales],
            })
        };
        measure(&cpu, name, &data, slice + 4 * scales);
    }
    if wanted.is_none() {
        let floats = vec![0x3c00u16; ROWS / 2 * COLS];
        let data = |turn: usize| {
            let row = turn * SLICE % (ROWS / 2);
            MatrixData::Bf16(&floats[row * COLS..][..SLICE * COLS])
        };
        measure(&cpu, "bf16", &data, SLICE * COLS * 2);
    }
}

fn measure<'a>(cpu: &Cpu, name: &str, data: &dyn Fn(usize) -> MatrixData<'a>, bytes: usize) {
    let tokens = std::env::args().nth(4).map(|n| vec![n.parse().unwrap()]);
    for n in tokens.unwrap_or(vec![1usize, 4, 8, 16, 64, 512]) {
        let x: Vec<f32> = (0..n * COLS).map(|i| (i % 97) as f32 - 48.0).collect();
        let mut quantized = Quantized::default();
        if let Some(rounding) = Matrix::new(SLICE, COLS, data(0)).unwrap().rounding() {
            quantized.quantize(cpu, &x, n, COLS, rounding).unwrap();
        }
        let mut out = vec![0.0; n * SLICE];
        let mut best = f64::INFINITY;
        for turn in 0..(20_000 / n).clamp(32, 2000) {
            let weights = Matrix::new(SLICE, COLS, data(turn)).unwrap();
            let start = Instant::now();
            let job = MatmulJob {
                weights,
                x: &x,
                quantized: Some(&quantized),
                tokens: None,
                out: &mut out,
            };
            cpu.matmul(&mut [job]).unwrap();
            best = best.min(start.elapsed().as_secs_f64());
        }
        let (bandwidth, rate) = (
            bytes as f64 / best / 1e9,
            (SLICE * COLS * n) as f64 / best / 1e9,
        );
        println!(
            "{name:14} n={n:3} {:8.3} ms {bandwidth:6.1} GB/s {rate:7.1} GMAC/s",
            best * 1e3
        );
    }
}
