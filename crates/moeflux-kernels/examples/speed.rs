//! Speed of the matrix products on this machine:
//! `cargo run --release -p moeflux-kernels --example speed [threads] [isa]`.
//!
//! Slices of a matrix larger than the caches are multiplied in turn; the best slice counts, so
//! that a busy machine's pauses do not.

#![allow(clippy::print_stdout, clippy::unwrap_used)] // a command for developers

use std::time::Instant;

use moeflux_kernels::{Cpu, Isa, MatmulJob, Matrix, MatrixData, Quantized};

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
    let bytes: Vec<u8> = (0..ROWS * COLS)
        .map(|i| (i * 2_654_435_761) as u8)
        .collect();
    let words = vec![0x3c00u16; ROWS * COLS];
    for bits in [4, 8, 2, 3, 6] {
        let data = |row: usize| MatrixData::Affine {
            bits,
            group: 64,
            weights: &bytes[row * COLS / 8 * bits as usize..][..SLICE * COLS / 8 * bits as usize],
            scales: &words[row * COLS / 64..][..SLICE * COLS / 64],
            biases: &words[(ROWS + row) * COLS / 64..][..SLICE * COLS / 64],
        };
        let bytes = SLICE * COLS / 8 * bits as usize + SLICE * COLS / 64 * 4;
        measure(&cpu, &format!("affine {bits} bits"), &data, bytes);
    }
    let data = |row: usize| MatrixData::Bf16(&words[row * COLS..][..SLICE * COLS]);
    measure(&cpu, "bf16", &data, SLICE * COLS * 2);
}

fn measure<'a>(cpu: &Cpu, name: &str, data: &dyn Fn(usize) -> MatrixData<'a>, bytes: usize) {
    for n in [1usize, 2, 4, 8, 32, 64] {
        let x: Vec<f32> = (0..n * COLS).map(|i| (i % 97) as f32 - 48.0).collect();
        let mut quantized = Quantized::default();
        quantized.quantize(cpu, &x, n, COLS, 64).unwrap();
        let mut out = vec![0.0; n * SLICE];
        let mut best = f64::INFINITY;
        for turn in 0..(512 / n).clamp(32, 128) {
            let weights = Matrix::new(SLICE, COLS, data(turn * SLICE % ROWS)).unwrap();
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
