//! How fast memory and disk are here, for the floors that benchmarks are printed beside.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use memmap2::MmapMut;
use moeflux::experts::{DiskProfile, Reader, ReaderKind};
use moeflux::kernels::MemoryRate;

use crate::failure::Failure;

/// Far more than caches hold, and at least the smaller one even where memory is short.
const MEMORY_BYTES: u64 = 512 << 20;
const SMALLEST_MEMORY_BYTES: u64 = 64 << 20;
/// Of the memory that may be taken, at most this part is walked over.
const MEMORY_SHARE: u64 = 4;
const DISK_THREADS: usize = 8;
const DISK_PIECE_BYTES: usize = 1 << 20;
/// A disk's rate swings; the best of a few rounds is its limit.
const DISK_ROUNDS: usize = 4;
const DISK_ROUND: Duration = Duration::from_millis(300);
/// What direct reads want their buffers aligned to.
const ALIGN: usize = 4096;

/// How fast `threads` threads read memory. Takes at most a quarter of `limit_bytes`, or of what the
/// machine has available.
pub fn memory(threads: usize, limit_bytes: Option<u64>) -> Result<MemoryRate, Failure> {
    let room = limit_bytes.or_else(moeflux::memory::available_bytes);
    let share = room.map_or(MEMORY_BYTES, |bytes| bytes / MEMORY_SHARE);
    let bytes = share.clamp(SMALLEST_MEMORY_BYTES, MEMORY_BYTES) as usize;
    let mut buffer = MmapMut::map_anon(bytes).map_err(|source| moeflux::Error::NoMemory {
        bytes_wanted: bytes as u64,
        source,
    })?;
    // As the engine's weights and experts lie; small pages would cost speed.
    #[cfg(target_os = "linux")]
    let _ = buffer.advise(memmap2::Advice::HugePage);
    Ok(moeflux::kernels::memory_rate(&mut buffer, threads))
}

/// What reading a model's expert files gave.
pub struct DiskRate {
    pub bytes_per_second: f64,
    /// The reader's name; a buffered one may have read from the page cache.
    pub reader: String,
}

/// Bytes a second read from a model's files in pieces of 1 MiB by several threads.
pub fn disk(model: &Path, kind: ReaderKind) -> Result<DiskRate, Failure> {
    let files = weight_files(model);
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
    let measured = rounds.fold(0.0, f64::max);
    // What the disk was found to do on an earlier day is its limit as well.
    let profile = match kind {
        ReaderKind::Buffered => None,
        _ => DiskProfile::load_or_measure(&files, &mut |_| {})?,
    };
    Ok(DiskRate {
        bytes_per_second: profile.map_or(measured, |p| p.bytes_per_second.max(measured)),
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

/// The files that hold a model's experts: the model itself, or what its directory has.
fn weight_files(model: &Path) -> Vec<PathBuf> {
    if model.is_file() {
        return vec![model.to_owned()];
    }
    let folders = [
        (model.join("experts"), "safetensors"),
        (model.to_owned(), "safetensors"),
        (model.to_owned(), "gguf"),
    ];
    let found = folders.iter().map(|(dir, kind)| files_of(dir, kind));
    found
        .into_iter()
        .find(|f| !f.is_empty())
        .unwrap_or_default()
}

fn files_of(dir: &Path, kind: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    let mut files: Vec<PathBuf> = paths
        .filter(|path| path.extension().is_some_and(|found| found == kind))
        .collect();
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weight_files_are_found_where_models_have_them() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let touch = |name: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, "x").expect("writes");
            path
        };
        assert!(weight_files(dir.path()).is_empty());
        let gguf = touch("model.gguf");
        assert_eq!(weight_files(dir.path()), std::slice::from_ref(&gguf));
        assert_eq!(weight_files(&gguf), std::slice::from_ref(&gguf));
        let (b, a) = (touch("b.safetensors"), touch("a.safetensors"));
        assert_eq!(weight_files(dir.path()), [a, b]);
        std::fs::create_dir(dir.path().join("experts")).expect("makes");
        let layer = touch("experts/layer-000.safetensors");
        assert_eq!(weight_files(dir.path()), [layer]);
    }
}
