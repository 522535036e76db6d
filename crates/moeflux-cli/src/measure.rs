//! How fast memory and disk are here, for the floors that benchmarks are printed beside.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use moeflux::experts::{Reader, ReaderKind};
use moeflux::formats::{AffineCodec, Codec};
use moeflux::kernels::{Cpu, KernelError, MatmulJob, Matrix, MatrixData, Quantized};
use moeflux::{Activations, Isa};

use crate::failure::Failure;

/// More than caches hold, and at least this much even where memory is bounded.
const MEMORY_BYTES: usize = 256 << 20;
const SMALLEST_MEMORY_BYTES: usize = 64 << 20;
const MEMORY_PASSES: usize = 4;
const DISK_THREADS: usize = 8;
const DISK_PIECE_BYTES: usize = 1 << 20;
/// A disk's rate swings; the best of a few rounds is its limit.
const DISK_ROUNDS: usize = 4;
const DISK_ROUND: Duration = Duration::from_millis(300);
/// What direct reads want their buffers aligned to.
const ALIGN: usize = 4096;

/// Bytes a second that `threads` threads read from memory together: the best of a few passes.
/// Takes at most half of `limit_bytes`.
pub fn memory_bytes_per_second(threads: usize, limit_bytes: Option<u64>) -> f64 {
    let half = limit_bytes.map_or(MEMORY_BYTES, |bytes| (bytes / 2) as usize);
    let bytes = half.clamp(SMALLEST_MEMORY_BYTES, MEMORY_BYTES);
    let words = bytes / 8;
    // Written, so that every page is there.
    let buffer: Vec<u64> = (0..words as u64).collect();
    let parts: Vec<&[u64]> = buffer.chunks(words.div_ceil(threads.max(1))).collect();
    let barrier = Barrier::new(parts.len() + 1);
    let mut best = f64::INFINITY;
    std::thread::scope(|scope| {
        for part in parts {
            let barrier = &barrier;
            scope.spawn(move || {
                for _ in 0..MEMORY_PASSES {
                    barrier.wait();
                    black_box(sum(black_box(part)));
                    barrier.wait();
                }
            });
        }
        for _ in 0..MEMORY_PASSES {
            barrier.wait();
            let start = Instant::now();
            barrier.wait();
            best = best.min(start.elapsed().as_secs_f64());
        }
    });
    bytes as f64 / best
}

fn sum(words: &[u64]) -> u64 {
    let mut lanes = [0_u64; 32];
    for chunk in words.chunks_exact(lanes.len()) {
        for (lane, word) in lanes.iter_mut().zip(chunk) {
            *lane = lane.wrapping_add(*word);
        }
    }
    lanes.iter().fold(0, |sum, lane| sum.wrapping_add(*lane))
}

/// Multiply-adds a second of the matrix kernel for `codec` on a matrix that stays in the caches:
/// the most that prefill can reach.
pub fn multiply_adds_per_second(
    isa: Isa,
    threads: usize,
    codec: Codec,
    activations: Activations,
) -> Result<f64, KernelError> {
    const ROWS: usize = 1024;
    const COLS: usize = 2048;
    const TOKENS: usize = 128;
    const PASSES: usize = 5;
    let cpu = Cpu::new(isa, threads)?;
    // Any values do: the time does not depend on them.
    let weights = vec![0x33_u8; ROWS * COLS];
    let halves = vec![0x3c33_u16; ROWS * COLS];
    let data = match codec {
        Codec::Affine(AffineCodec { bits, group }) => MatrixData::Affine {
            bits,
            group,
            weights: &weights[..ROWS * COLS / 8 * bits as usize],
            scales: &halves[..ROWS * COLS / group],
            biases: &halves[..ROWS * COLS / group],
        },
        _ => MatrixData::Bf16(&halves),
    };
    let matrix = Matrix::new(ROWS, COLS, data)?;
    let x = vec![0.5_f32; TOKENS * COLS];
    let mut out = vec![0.0_f32; TOKENS * ROWS];
    let mut quantized = Quantized::default();
    let quantized = match matrix.group() {
        Some(group) if activations == Activations::Int8 => {
            quantized.quantize(&cpu, &x, TOKENS, COLS, group)?;
            Some(&quantized)
        }
        _ => None,
    };
    let mut best = f64::INFINITY;
    for _ in 0..PASSES {
        let start = Instant::now();
        cpu.matmul(&mut [MatmulJob {
            weights: matrix,
            x: &x,
            quantized,
            tokens: None,
            out: &mut out,
        }])?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    black_box(&out);
    Ok((ROWS * COLS * TOKENS) as f64 / best)
}

/// What reading a model's expert files gave.
pub struct DiskRate {
    pub bytes_per_second: f64,
    /// The reader's name; a buffered one may have read from the page cache.
    pub reader: String,
}

/// Bytes a second read from a model's files in pieces of 1 MiB by several threads.
pub fn disk(dir: &Path, kind: ReaderKind) -> Result<DiskRate, Failure> {
    let mut files = safetensors(&dir.join("experts"));
    if dir.is_file() {
        files.push(dir.to_owned());
    }
    if files.is_empty() {
        files = safetensors(dir);
    }
    let mut pieces = Vec::new();
    for (index, file) in files.iter().enumerate() {
        let bytes = std::fs::metadata(file).map_err(|source| Failure::File {
            action: "read",
            path: file.clone(),
            source,
        })?;
        for piece in 0..bytes.len() / DISK_PIECE_BYTES as u64 {
            pieces.push((
                index as u32,
                piece * DISK_PIECE_BYTES as u64,
                DISK_PIECE_BYTES,
            ));
        }
        if bytes.len() < DISK_PIECE_BYTES as u64 {
            pieces.push((index as u32, 0, bytes.len() as usize));
        }
    }
    let reader = kind.open(&files)?;
    let next = AtomicUsize::new(0);
    let rounds = (0..DISK_ROUNDS).map(|_| disk_round(&*reader, &pieces, &next));
    Ok(DiskRate {
        bytes_per_second: rounds.fold(0.0, f64::max),
        reader: reader.name(),
    })
}

/// Reads on from piece `next` for a while; gives bytes a second.
fn disk_round(reader: &dyn Reader, pieces: &[(u32, u64, usize)], next: &AtomicUsize) -> f64 {
    let done = AtomicU64::new(0);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..DISK_THREADS {
            scope.spawn(|| {
                let mut buffer = vec![0_u8; DISK_PIECE_BYTES + ALIGN];
                let first = buffer.as_ptr().align_offset(ALIGN).min(ALIGN);
                while start.elapsed() < DISK_ROUND && !pieces.is_empty() {
                    let index = next.fetch_add(1, Ordering::Relaxed) % pieces.len();
                    let (file, offset, bytes) = pieces[index];
                    if reader
                        .read(file, offset, &mut buffer[first..first + bytes])
                        .is_err()
                    {
                        return;
                    }
                    done.fetch_add(bytes as u64, Ordering::Relaxed);
                }
            });
        }
    });
    done.into_inner() as f64 / start.elapsed().as_secs_f64()
}

fn safetensors(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    let mut files: Vec<PathBuf> = paths
        .filter(|path| path.extension().is_some_and(|kind| kind == "safetensors"))
        .collect();
    files.sort();
    files
}
