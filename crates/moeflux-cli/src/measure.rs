//! How fast memory and disk are here, for the floors that benchmarks are printed beside.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use memmap2::MmapMut;
use moeflux::experts::{Reader, ReaderKind};

use crate::failure::Failure;

/// Far more than caches hold, and at least the smaller one even where memory is short.
const MEMORY_BYTES: u64 = 512 << 20;
const SMALLEST_MEMORY_BYTES: u64 = 64 << 20;
/// Of the memory that may be taken, at most this part is walked over.
const MEMORY_SHARE: u64 = 4;
/// What a thread reads in a turn: little enough that some turns meet no interruption, and too much
/// to be in the caches when its turn comes again.
const TURN_BYTES: usize = 8 << 20;
const MEMORY_TIME: Duration = Duration::from_millis(400);
/// Bytes added up at a time, in as many registers as hide the latency of an addition.
const STRIDE: usize = 256;
const DISK_THREADS: usize = 8;
const DISK_PIECE_BYTES: usize = 1 << 20;
/// A disk's rate swings; the best of a few rounds is its limit.
const DISK_ROUNDS: usize = 4;
const DISK_ROUND: Duration = Duration::from_millis(300);
/// What direct reads want their buffers aligned to.
const ALIGN: usize = 4096;

/// Bytes a second that threads read from memory together.
#[derive(Clone, Copy, Debug)]
pub struct MemoryRate {
    /// In the best turn: what else the machine does only ever slows one down.
    pub best: f64,
    /// In the median turn: what the machine gives while this busy.
    pub median: f64,
}

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
    let threads = threads.max(1);
    let part_bytes = (bytes / threads / STRIDE).max(1) * STRIDE;
    let turn_bytes = part_bytes.min(TURN_BYTES);
    let walkers = Walkers {
        count: threads,
        arrived: AtomicUsize::new(0),
        clock: Instant::now(),
        first_start: AtomicU64::new(u64::MAX),
        last_end: AtomicU64::new(0),
        is_over: AtomicBool::new(false),
    };
    let mut parts = buffer.chunks_exact_mut(part_bytes);
    let own = parts.next().unwrap_or_default();
    let mut nanos = std::thread::scope(|scope| {
        for part in parts.take(threads - 1) {
            scope.spawn(|| walkers.walk(part, turn_bytes, false));
        }
        walkers.walk(own, turn_bytes, true)
    });
    nanos.sort_unstable();
    let rate = |nanos: Option<&u64>| {
        let seconds = nanos.map_or(f64::INFINITY, |&nanos| nanos as f64 * 1e-9);
        (turn_bytes * threads) as f64 / seconds
    };
    Ok(MemoryRate {
        best: rate(nanos.first()),
        median: rate(nanos.get(nanos.len() / 2)),
    })
}

/// Threads that read memory at the same time.
struct Walkers {
    count: usize,
    /// How often one of them has come to a meeting.
    arrived: AtomicUsize,
    clock: Instant,
    /// When the first of them began with this turn, and the last ended, in nanoseconds.
    first_start: AtomicU64,
    last_end: AtomicU64,
    is_over: AtomicBool,
}

impl Walkers {
    /// Reads a part again and again, in turns that all begin together, until the leader ends it.
    /// Gives the leader the nanoseconds of each turn, from the first to start to the last to end.
    fn walk(&self, part: &mut [u8], turn_bytes: usize, is_leader: bool) -> Vec<u64> {
        // Written by the thread that reads it, so that every page is there, and near.
        part.fill(1);
        let part = &*part;
        let now = || self.clock.elapsed().as_nanos() as u64;
        let (mut turns, mut meetings) = (Vec::new(), 0);
        self.meet(&mut meetings);
        let end = now() + MEMORY_TIME.as_nanos() as u64;
        for turn in part.chunks_exact(turn_bytes).cycle() {
            self.meet(&mut meetings);
            if self.is_over.load(Ordering::Acquire) {
                break;
            }
            self.first_start.fetch_min(now(), Ordering::AcqRel);
            black_box(sum(black_box(turn)));
            self.last_end.fetch_max(now(), Ordering::AcqRel);
            self.meet(&mut meetings);
            if is_leader {
                let start = self.first_start.swap(u64::MAX, Ordering::AcqRel);
                let spent = self
                    .last_end
                    .swap(0, Ordering::AcqRel)
                    .saturating_sub(start);
                turns.push(spent.max(1));
                self.is_over.store(now() > end, Ordering::Release);
            }
        }
        turns
    }

    /// Waits until all are here. Spins, since waking a thread takes longer than is measured.
    fn meet(&self, meetings: &mut usize) {
        const PATIENCE: usize = 1000;
        *meetings += 1;
        self.arrived.fetch_add(1, Ordering::AcqRel);
        let mut spins = 0;
        while self.arrived.load(Ordering::Acquire) < *meetings * self.count {
            spins += 1;
            if spins % PATIENCE == 0 {
                std::thread::yield_now();
            }
            std::hint::spin_loop();
        }
    }
}

fn sum(bytes: &[u8]) -> u64 {
    let mut lanes = [0_u64; STRIDE / 8];
    for stride in bytes.as_chunks::<STRIDE>().0 {
        for (lane, word) in lanes.iter_mut().zip(stride.as_chunks::<8>().0) {
            *lane = lane.wrapping_add(u64::from_ne_bytes(*word));
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
    fn every_byte_of_whole_strides_is_read() {
        let mut bytes = vec![0_u8; 3 * STRIDE + 5];
        for at in [0, STRIDE - 8, STRIDE + 16, 3 * STRIDE - 8] {
            bytes[at..at + 8].copy_from_slice(&7_u64.to_ne_bytes());
        }
        assert_eq!(sum(&bytes), 28);
    }

    #[test]
    fn memory_is_measured_with_any_number_of_threads() {
        for threads in [0, 1, 3, 64] {
            let rate = memory(threads, Some(1)).expect("there is memory");
            assert!(rate.best.is_finite(), "{threads} threads: {rate:?}");
            assert!(
                rate.median > 0.0 && rate.median <= rate.best,
                "{threads}: {rate:?}"
            );
        }
    }

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
