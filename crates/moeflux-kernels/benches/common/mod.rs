//! What the benches share: the processor, operands that lie in memory as an engine's do, and a
//! report beside what the machine can do.
//!
//! `THREADS=N` and `ISA=NAME` in the environment choose the processor; default: all cores and the
//! best instruction set.

#![allow(dead_code, clippy::unwrap_used, clippy::print_stdout)] // each bench uses a part

use std::cell::Cell;
use std::hint::black_box;
use std::sync::{Barrier, OnceLock};
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode, Throughput};
use memmap2::MmapMut;
use moeflux_kernels::{Cpu, Isa, Matrix, MatrixData, Quantized};

/// Far more than caches hold; operands are taken from it in turn.
const MEMORY_BYTES: usize = 256 << 20;
/// Any value that is an ordinary number in every format; times do not depend on it.
const FILL: u8 = 0x3c;
/// The best pass counts: what else the machine does only ever slows one down.
const PASSES: usize = 12;

/// Short runs: a round of all benches takes two minutes.
pub fn criterion() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(50))
        .measurement_time(Duration::from_millis(250))
        .nresamples(1000)
        .without_plots()
        .configure_from_args()
}

/// A group of benches.
pub fn group<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.sampling_mode(SamplingMode::Flat);
    group
}

/// The processor that the environment asks for.
pub fn cpu() -> Cpu {
    let isa = std::env::var("ISA").map_or_else(|_| Isa::detect(), |name| name.parse().unwrap());
    Cpu::new(isa, threads()).unwrap()
}

fn threads() -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    std::env::var("THREADS").map_or_else(|_| cores(), |count| count.parse().unwrap())
}

/// What one run of a kernel takes.
#[derive(Clone, Copy, Default)]
pub struct Work {
    /// Bytes read and written.
    pub bytes: usize,
    /// Multiply-adds; 0 if they do not matter.
    pub multiply_adds: usize,
}

/// Measures `run` and prints what the best sample reached. Operands that stay in the caches may
/// come to more than the memory's bandwidth.
pub fn bench(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    work: Work,
    mut run: impl FnMut(),
) {
    let best = Cell::new(f64::INFINITY);
    if work.bytes > 0 {
        group.throughput(Throughput::Bytes(work.bytes as u64));
    }
    group.bench_function(name, |bencher| {
        bencher.iter_custom(|rounds| {
            let start = Instant::now();
            (0..rounds).for_each(|_| run());
            let taken = start.elapsed();
            best.set(best.get().min(taken.as_secs_f64() / rounds as f64));
            taken
        });
    });
    let best = best.get();
    if best.is_infinite() || work.bytes == 0 {
        return; // left out by a filter, or nothing to compare
    }
    let rate = work.bytes as f64 / best;
    let share = 100.0 * rate / memory_bytes_per_second();
    print!(
        "{:24}best: {:.2} GB/s, {share:.0} % of the memory's",
        "",
        rate / 1e9
    );
    if work.multiply_adds > 0 {
        print!(
            ", {:.1} G multiply-adds/s",
            work.multiply_adds as f64 / best / 1e9
        );
    }
    println!();
}

/// Memory full of ordinary numbers, in huge pages where the system grants them.
pub fn memory() -> &'static [u8] {
    static MEMORY: OnceLock<MmapMut> = OnceLock::new();
    MEMORY.get_or_init(|| {
        let mut map = MmapMut::map_anon(MEMORY_BYTES).unwrap();
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        map.fill(FILL);
        map
    })
}

/// The `turn`th piece of `bytes` of the memory, around and around.
fn piece(turn: usize, bytes: usize) -> &'static [u8] {
    let step = bytes.next_multiple_of(64);
    let pieces = MEMORY_BYTES / step;
    &memory()[turn % pieces * step..][..bytes]
}

/// Bytes a second that the processor's threads read from the memory together.
pub fn memory_bytes_per_second() -> f64 {
    static RATE: OnceLock<f64> = OnceLock::new();
    *RATE.get_or_init(|| {
        let threads = threads();
        let parts = memory().chunks(MEMORY_BYTES.div_ceil(threads).next_multiple_of(256));
        let barrier = Barrier::new(parts.len());
        let walk = |part: &[u8]| {
            let mut best = f64::INFINITY;
            for _ in 0..PASSES {
                barrier.wait();
                let start = Instant::now();
                black_box(sum(black_box(part)));
                barrier.wait();
                best = best.min(start.elapsed().as_secs_f64());
            }
            best
        };
        let best = std::thread::scope(|scope| {
            let walk = &walk;
            let walks: Vec<_> = parts.map(|part| scope.spawn(move || walk(part))).collect();
            let times = walks.into_iter().map(|walk| walk.join().unwrap());
            times.fold(f64::INFINITY, f64::min)
        });
        let rate = MEMORY_BYTES as f64 / best;
        println!("memory: {:.1} GB/s read by {threads} threads", rate / 1e9);
        rate
    })
}

fn sum(bytes: &[u8]) -> u64 {
    let mut lanes = [0_u64; 32];
    for stride in bytes.as_chunks::<256>().0 {
        for (lane, word) in lanes.iter_mut().zip(stride.as_chunks::<8>().0) {
            *lane = lane.wrapping_add(u64::from_ne_bytes(*word));
        }
    }
    lanes.iter().fold(0, |sum, lane| sum.wrapping_add(*lane))
}

/// How a matrix is stored.
#[derive(Clone, Copy)]
pub enum Codec {
    F32,
    F16,
    Bf16,
    /// Bits, in groups of 64.
    Affine(u32),
}

/// Every codec and its name.
pub const CODECS: [(&str, Codec); 9] = [
    ("affine-b4", Codec::Affine(4)),
    ("affine-b8", Codec::Affine(8)),
    ("affine-b2", Codec::Affine(2)),
    ("affine-b3", Codec::Affine(3)),
    ("affine-b5", Codec::Affine(5)),
    ("affine-b6", Codec::Affine(6)),
    ("bf16", Codec::Bf16),
    ("f16", Codec::F16),
    ("f32", Codec::F32),
];

const GROUP: usize = 64;

impl Codec {
    /// Bytes of a `[rows, cols]` matrix.
    pub fn bytes(self, rows: usize, cols: usize) -> usize {
        let elements = rows * cols;
        match self {
            Codec::F32 => 4 * elements,
            Codec::F16 | Codec::Bf16 => 2 * elements,
            Codec::Affine(bits) => elements / 8 * bits as usize + elements / GROUP * 4,
        }
    }

    /// The `turn`th matrix of that shape in memory.
    pub fn matrix(self, turn: usize, rows: usize, cols: usize) -> Matrix<'static> {
        let bytes = piece(turn, self.bytes(rows, cols));
        let data = match self {
            Codec::F32 => MatrixData::F32(bytemuck::cast_slice(bytes)),
            Codec::F16 => MatrixData::F16(bytemuck::cast_slice(bytes)),
            Codec::Bf16 => MatrixData::Bf16(bytemuck::cast_slice(bytes)),
            Codec::Affine(bits) => {
                let (weights, rest) = bytes.split_at(rows * cols / 8 * bits as usize);
                let (scales, biases) = rest.split_at(rest.len() / 2);
                MatrixData::Affine {
                    bits,
                    group: GROUP,
                    weights,
                    scales: bytemuck::cast_slice(scales),
                    biases: bytemuck::cast_slice(biases),
                }
            }
        };
        Matrix::new(rows, cols, data).unwrap()
    }

    /// Activations rounded as its kernels want them, if they do.
    pub fn quantized(self, cpu: &Cpu, x: &[f32], cols: usize) -> Option<Quantized> {
        let Codec::Affine(_) = self else { return None };
        let mut quantized = Quantized::default();
        quantized
            .quantize(cpu, x, x.len() / cols, cols, GROUP)
            .unwrap();
        Some(quantized)
    }
}

/// Ordinary numbers of both signs.
pub fn floats(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i % 97) as f32 / 48.0 - 1.0).collect()
}
