//! How fast memory and disk are here, for the floors that benchmarks are printed beside.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use moeflux::experts::ReaderKind;

use crate::failure::Failure;

/// More than caches hold.
const MEMORY_BYTES: usize = 256 << 20;
const MEMORY_PASSES: usize = 4;
const DISK_THREADS: usize = 8;
const DISK_PIECE_BYTES: usize = 1 << 20;
const DISK_TIME: Duration = Duration::from_millis(800);
/// What direct reads want their buffers aligned to.
const ALIGN: usize = 4096;

/// Bytes a second that `threads` threads read from memory together: the best of a few passes.
pub fn memory_bytes_per_second(threads: usize) -> f64 {
    let words = MEMORY_BYTES / 8;
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
    MEMORY_BYTES as f64 / best
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

/// What reading a model's expert files gave.
pub struct DiskRate {
    pub bytes_per_second: f64,
    /// The reader's name; a buffered one may have read from the page cache.
    pub reader: String,
}

/// Bytes a second read from a model's files in pieces of 1 MiB by several threads.
pub fn disk(dir: &Path, kind: ReaderKind) -> Result<DiskRate, Failure> {
    let mut files = safetensors(&dir.join("experts"));
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
    let (next, done) = (AtomicU64::new(0), AtomicU64::new(0));
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..DISK_THREADS {
            scope.spawn(|| {
                let mut buffer = vec![0_u8; DISK_PIECE_BYTES + ALIGN];
                let first = buffer.as_ptr().align_offset(ALIGN).min(ALIGN);
                while start.elapsed() < DISK_TIME {
                    let index = next.fetch_add(1, Ordering::Relaxed) as usize;
                    let Some((file, offset, bytes)) = pieces.get(index) else {
                        return;
                    };
                    let out = &mut buffer[first..first + bytes];
                    if reader.read(*file, *offset, out).is_err() {
                        return;
                    }
                    done.fetch_add(*bytes as u64, Ordering::Relaxed);
                }
            });
        }
    });
    let bytes_per_second = done.into_inner() as f64 / start.elapsed().as_secs_f64();
    Ok(DiskRate {
        bytes_per_second,
        reader: reader.name(),
    })
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
