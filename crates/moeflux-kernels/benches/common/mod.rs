//! What the benches share: the processor, operands that lie in memory as an engine's do, and a
//! report beside what the machine can do.
//!
//! `THREADS=N` and `ISA=NAME` in the environment choose the processor; default: all cores and the
//! best instruction set.

#![allow(dead_code, clippy::unwrap_used, clippy::print_stdout)] // each bench uses a part

use std::cell::Cell;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode, Throughput};
use memmap2::MmapMut;
use moeflux_kernels::{
    Coded, Coding, Cpu, F8, F8_BLOCK, F8Scales, Isa, KV_PAGE_TOKENS, KvPage, KvType, Matrix,
    MatrixData, Quantized, memory_rate,
};

/// Far more than caches hold; operands are taken from it in turn.
const MEMORY_BYTES: usize = 256 << 20;
/// Any value that is an ordinary number in every format; times do not depend on it.
const FILL: u8 = 0x3c;

/// Short runs: a round of all benches takes two minutes.
pub fn criterion() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(50))
        .measurement_time(Duration::from_millis(250))
        .nresamples(1001)
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

/// Measures `run` and prints what the best batch of runs reached, which a busy machine disturbs
/// least. Operands that stay in the caches may come to more than the memory's bandwidth.
pub fn bench(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    work: Work,
    mut run: impl FnMut(),
) {
    let best = Cell::new(f64::INFINITY);
    // A batch takes long enough for the clock and is over before anyone disturbs it.
    let batch = ((1 << 20) / work.bytes.max(1)).clamp(1, 64) as u64;
    // Before anything is timed.
    memory_bytes_per_second();
    if work.bytes > 0 {
        group.throughput(Throughput::Bytes(work.bytes as u64));
    }
    group.bench_function(name, |bencher| {
        bencher.iter_custom(|runs| {
            let start = Instant::now();
            let mut left = runs;
            while left > 0 {
                let count = batch.min(left);
                let start = Instant::now();
                (0..count).for_each(|_| run());
                let seconds = start.elapsed().as_secs_f64() / count as f64;
                best.set(best.get().min(seconds));
                left -= count;
            }
            start.elapsed()
        });
    });
    let best = best.get();
    if best.is_finite() {
        print_best(best, work);
    }
}

/// Seconds of the best batch beside what the memory could do.
fn print_best(seconds: f64, work: Work) {
    print!("{:24}best:   {:.2} µs", "", seconds * 1e6);
    if work.bytes > 0 {
        let rate = work.bytes as f64 / seconds;
        let share = 100.0 * rate / memory_bytes_per_second();
        print!(", {:.2} GB/s, {share:.0} % of the memory's", rate / 1e9);
    }
    if work.multiply_adds > 0 {
        let rate = work.multiply_adds as f64 / seconds / 1e9;
        print!(", {rate:.1} G multiply-adds/s");
    }
    println!();
}

/// Set when the memory is made.
static RATE: OnceLock<f64> = OnceLock::new();

/// Memory full of ordinary numbers, in huge pages where the system grants them.
pub fn memory() -> &'static [u8] {
    static MEMORY: OnceLock<MmapMut> = OnceLock::new();
    MEMORY.get_or_init(|| {
        let mut map = MmapMut::map_anon(MEMORY_BYTES).unwrap();
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        let threads = threads();
        let rate = RATE.get_or_init(|| memory_rate(&mut map, threads).best);
        println!("memory: {:.1} GB/s read by {threads} threads", rate / 1e9);
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

/// Bytes a second that the processor's threads read from the memory at best.
fn memory_bytes_per_second() -> f64 {
    memory();
    RATE.get().copied().unwrap_or(f64::INFINITY)
}

/// How a matrix is stored.
#[derive(Clone, Copy)]
pub enum Codec {
    F32,
    F16,
    Bf16,
    /// E4M3 with f32 scales.
    F8,
    /// E4M3 with powers of two.
    F8OfPowers,
    Coded(Coding),
}

/// Every codec and its name.
pub const CODECS: [(&str, Codec); 26] = [
    ("affine-b4", affine(4)),
    ("affine-b8", affine(8)),
    ("affine-b2", affine(2)),
    ("affine-b3", affine(3)),
    ("affine-b5", affine(5)),
    ("affine-b6", affine(6)),
    ("q4_0", Codec::Coded(Coding::Q4_0)),
    ("q4_1", Codec::Coded(Coding::Q4_1)),
    ("q5_0", Codec::Coded(Coding::Q5_0)),
    ("q5_1", Codec::Coded(Coding::Q5_1)),
    ("q8_0", Codec::Coded(Coding::Q8_0)),
    ("q2_k", Codec::Coded(Coding::Q2K)),
    ("q3_k", Codec::Coded(Coding::Q3K)),
    ("q4_k", Codec::Coded(Coding::Q4K)),
    ("q5_k", Codec::Coded(Coding::Q5K)),
    ("q6_k", Codec::Coded(Coding::Q6K)),
    ("iq4_nl", Codec::Coded(Coding::Iq4Nl)),
    ("iq4_xs", Codec::Coded(Coding::Iq4Xs)),
    ("mxfp4", Codec::Coded(Coding::Mxfp4)),
    ("nvfp4", Codec::Coded(Coding::Nvfp4)),
    (
        "centered-b4",
        Codec::Coded(Coding::Centered { bits: 4, group: 32 }),
    ),
    ("f8-e4m3", Codec::F8),
    ("f8-e4m3-e8m0", Codec::F8OfPowers),
    ("bf16", Codec::Bf16),
    ("f16", Codec::F16),
    ("f32", Codec::F32),
];

const fn affine(bits: u32) -> Codec {
    Codec::Coded(Coding::Affine { bits, group: 64 })
}

/// Squares of FP8 that share a scale.
fn squares(rows: usize, cols: usize) -> usize {
    rows.div_ceil(F8_BLOCK) * cols.div_ceil(F8_BLOCK)
}

impl Codec {
    /// Bytes of the weights, of the scales and of the biases of a `[rows, cols]` matrix.
    fn part_bytes(self, rows: usize, cols: usize) -> [usize; 3] {
        match self {
            Codec::F32 => [4 * rows * cols, 0, 0],
            Codec::F16 | Codec::Bf16 => [2 * rows * cols, 0, 0],
            Codec::F8 => [rows * cols, 4 * squares(rows, cols), 0],
            Codec::F8OfPowers => [rows * cols, squares(rows, cols), 0],
            Codec::Coded(coding) => {
                let [weights, scales, biases] = coding.part_lengths(rows, cols).unwrap();
                [weights, 2 * scales, 2 * biases]
            }
        }
    }

    /// Bytes of a `[rows, cols]` matrix.
    pub fn bytes(self, rows: usize, cols: usize) -> usize {
        self.part_bytes(rows, cols).iter().sum()
    }

    /// The `turn`th matrix of that shape in memory. As all its bytes are alike, it is as good as
    /// one that was arranged in tiles.
    pub fn matrix(self, turn: usize, rows: usize, cols: usize) -> Matrix<'static> {
        let [weights, scales, _] = self.part_bytes(rows, cols);
        let bytes = piece(turn, self.bytes(rows, cols));
        let data = match self {
            Codec::F32 => MatrixData::F32(bytemuck::cast_slice(bytes)),
            Codec::F16 => MatrixData::F16(bytemuck::cast_slice(bytes)),
            Codec::Bf16 => MatrixData::Bf16(bytemuck::cast_slice(bytes)),
            Codec::F8 | Codec::F8OfPowers => {
                let (weights, scales) = bytes.split_at(weights);
                let scales = match self {
                    Codec::F8 => F8Scales::F32(bytemuck::cast_slice(scales)),
                    _ => F8Scales::E8M0(scales),
                };
                MatrixData::F8(F8 { weights, scales })
            }
            Codec::Coded(coding) => {
                let (weights, rest) = bytes.split_at(weights);
                let (scales, biases) = rest.split_at(scales);
                MatrixData::Coded(Coded {
                    coding,
                    weights,
                    scales: bytemuck::cast_slice(scales),
                    biases: bytemuck::cast_slice(biases),
                    global: 1.0,
                })
            }
        };
        Matrix::new(rows, cols, data).unwrap()
    }

    /// Activations rounded as its kernels want them, if they do.
    pub fn quantized(self, cpu: &Cpu, x: &[f32], cols: usize) -> Option<Quantized> {
        let Codec::Coded(coding) = self else {
            return None;
        };
        let mut quantized = Quantized::default();
        let n = x.len() / cols;
        quantized
            .quantize(cpu, x, n, cols, coding.rounding())
            .unwrap();
        Some(quantized)
    }
}

/// Pages of binary16 with `positions` keys and values.
pub fn pages(cpu: &Cpu, kv_heads: usize, head_dim: usize, positions: usize) -> Vec<KvPage> {
    let count = positions.div_ceil(KV_PAGE_TOKENS);
    let page = || KvPage::new(KvType::F16, kv_heads, head_dim);
    let mut pages: Vec<KvPage> = (0..count).map(|_| page()).collect();
    let values = floats(positions * kv_heads * head_dim);
    cpu.kv_append(&mut pages, 0, &values, &values).unwrap();
    pages
}

/// The same where keys are the values too.
pub fn joint_pages(cpu: &Cpu, kv_heads: usize, head_dim: usize, positions: usize) -> Vec<KvPage> {
    let count = positions.div_ceil(KV_PAGE_TOKENS);
    let page = || KvPage::joint(KvType::F16, kv_heads, head_dim);
    let mut pages: Vec<KvPage> = (0..count).map(|_| page()).collect();
    let values = floats(positions * kv_heads * head_dim);
    cpu.kv_append(&mut pages, 0, &values, &values).unwrap();
    pages
}

/// Ordinary numbers of both signs.
pub fn floats(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i % 97) as f32 / 48.0 - 1.0).collect()
}
