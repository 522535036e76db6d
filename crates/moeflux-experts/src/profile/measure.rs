//! Reading a model's own files in many ways, for about a second.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use memmap2::MmapMut;

use super::DiskPoint;
use super::choose::{USUAL_PIECE_BYTES, frugal};
use crate::reader::{DirectReader, FILE_ALIGN, Reader, ReaderKind};

const DEPTHS: [usize; 6] = [1, 2, 4, 8, 16, 32];
const OTHER_PIECES_BYTES: [u64; 4] = [256 << 10, 512 << 10, 2 << 20, 4 << 20];
/// Settings that would have more in flight are not tried.
const MOST_IN_FLIGHT_BYTES: u64 = 32 << 20;
/// A disk's rate swings, so each setting is tried in several rounds, which count together.
const ROUNDS: usize = 4;
/// In that many of them, pieces of other sizes are tried, too.
const PIECE_ROUNDS: usize = 2;
/// How long a setting is measured, once its requests are in flight; longer where few have ended.
const WINDOW: Duration = Duration::from_millis(12);
const LONGEST_WINDOW: Duration = Duration::from_millis(150);
/// After this, nothing more is measured.
const DEADLINE: Duration = Duration::from_millis(1500);

/// What is read, and where to.
struct Bench<'a> {
    reader: &'a DirectReader,
    /// Whole blocks of each file.
    blocks: Vec<u64>,
    memory: MmapMut,
    /// Each setting begins where others did not read.
    seed: u64,
}

/// Measures all settings of both readers, as far as time allows. Without io_uring, or where reads
/// fail, those settings are absent.
pub(super) fn points(
    reader: &DirectReader,
    files: &[PathBuf],
    progress: &mut dyn FnMut(f64),
) -> Vec<DiskPoint> {
    let length = |file: &PathBuf| std::fs::metadata(file).map_or(0, |metadata| metadata.len());
    let Ok(mut memory) = MmapMut::map_anon(MOST_IN_FLIGHT_BYTES as usize) else {
        return Vec::new();
    };
    #[cfg(target_os = "linux")]
    let _ = memory.advise(memmap2::Advice::HugePage);
    // The arena's pages are there when it is read into, but for the first time.
    memory.fill(0);
    let mut bench = Bench {
        reader,
        blocks: files.iter().map(|file| length(file) / FILE_ALIGN).collect(),
        memory,
        seed: 1,
    };
    let start = Instant::now();
    let mut tallies: Vec<Tally> = Vec::new();
    let readers: &[ReaderKind] = match cfg!(target_os = "linux") {
        true => &[ReaderKind::Uring, ReaderKind::Direct],
        false => &[ReaderKind::Direct],
    };
    // Readers and rounds alternate, so that a bad moment of the disk does not count against one.
    for round in 0..ROUNDS {
        let others = match round >= ROUNDS - PIECE_ROUNDS {
            true => &OTHER_PIECES_BYTES[..],
            false => &[],
        };
        let depths = DEPTHS.map(|depth| (Some(depth), USUAL_PIECE_BYTES));
        let pieces = others.iter().map(|&piece_bytes| (None, piece_bytes));
        for (depth, piece_bytes) in depths.into_iter().chain(pieces) {
            for &kind in readers {
                let chosen = || frugal(&all_points(&tallies), kind).map(|point| point.depth);
                let Some(depth) = depth.or_else(chosen) else {
                    continue;
                };
                if start.elapsed() > DEADLINE {
                    return all_points(&tallies);
                }
                if let Some(round) = bench.measure(kind, depth, piece_bytes) {
                    add(&mut tallies, round);
                }
                progress((start.elapsed().as_secs_f64() / DEADLINE.as_secs_f64()).min(1.0));
            }
        }
    }
    progress(1.0);
    all_points(&tallies)
}

/// What all rounds of a setting read together.
struct Tally {
    reader: ReaderKind,
    depth: usize,
    piece_bytes: u64,
    bytes: u64,
    seconds: f64,
}

impl Tally {
    fn point(&self) -> DiskPoint {
        let bytes_per_second = self.bytes as f64 / self.seconds;
        let in_flight = self.depth as f64 * self.piece_bytes as f64;
        DiskPoint {
            reader: self.reader,
            depth: self.depth,
            piece_bytes: self.piece_bytes,
            // Whole numbers are the same when read again from the cache.
            bytes_per_second: bytes_per_second.round(),
            // Requests in flight are rate times time.
            latency_us: (in_flight / bytes_per_second * 1e6).round(),
        }
    }
}

/// Adds a round to those of the same setting.
fn add(tallies: &mut Vec<Tally>, round: Tally) {
    let setting = |tally: &Tally| (tally.reader, tally.depth, tally.piece_bytes);
    match tallies
        .iter_mut()
        .find(|tally| setting(tally) == setting(&round))
    {
        None => tallies.push(round),
        Some(tally) => {
            tally.bytes += round.bytes;
            tally.seconds += round.seconds;
        }
    }
}

fn all_points(tallies: &[Tally]) -> Vec<DiskPoint> {
    tallies.iter().map(Tally::point).collect()
}

impl Bench<'_> {
    fn measure(&mut self, reader: ReaderKind, depth: usize, piece_bytes: u64) -> Option<Tally> {
        if depth as u64 * piece_bytes > MOST_IN_FLIGHT_BYTES {
            return None;
        }
        self.seed = self
            .seed
            .wrapping_mul(0x2545_f491_4f6c_dd1d)
            .wrapping_add(1);
        let (ended, seconds) = match reader {
            #[cfg(target_os = "linux")]
            ReaderKind::Uring => self.with_ring(depth, piece_bytes),
            _ => self.with_threads(depth, piece_bytes),
        }?;
        Some(Tally {
            reader,
            depth,
            piece_bytes,
            bytes: ended * piece_bytes,
            seconds,
        })
    }

    /// Requests and seconds with as many threads as requests.
    fn with_threads(&mut self, depth: usize, piece_bytes: u64) -> Option<(u64, f64)> {
        let spots = Mutex::new(Spots::new(&self.blocks, self.seed, piece_bytes)?);
        let clock = Mutex::new(Clock::new(depth));
        let reader = self.reader;
        std::thread::scope(|scope| {
            for out in self
                .memory
                .chunks_exact_mut(piece_bytes as usize)
                .take(depth)
            {
                let (spots, clock) = (&spots, &clock);
                scope.spawn(move || {
                    while !lock(clock).over() {
                        let (file, offset) = lock(spots).next();
                        let ended = reader.read(file, offset, out);
                        lock(clock).tick(ended.is_ok());
                    }
                });
            }
        });
        clock
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
            .result()
    }

    /// Requests and seconds with io_uring.
    #[cfg(target_os = "linux")]
    fn with_ring(&mut self, depth: usize, piece_bytes: u64) -> Option<(u64, f64)> {
        use crate::reader::ring::{Ring, Target};
        let mut spots = Spots::new(&self.blocks, self.seed, piece_bytes)?;
        let mut ring = Ring::new(self.reader.files(), depth).ok()?;
        let parts = self
            .memory
            .chunks_exact_mut(piece_bytes as usize)
            .take(depth);
        let targets: Vec<Target> = parts.map(Target::one).collect();
        let mut clock = Clock::new(depth);
        let mut idle: Vec<usize> = (0..depth).collect();
        loop {
            while !clock.over() {
                let Some(at) = idle.pop() else { break };
                let (file, offset) = spots.next();
                // SAFETY: the target is idle: its memory, a part of its own, is in no other
                // request, and both are kept until all completions were taken.
                if unsafe { ring.read(at as u64, file, offset, &targets[at]) }.is_err() {
                    clock.tick(false);
                    idle.push(at);
                }
            }
            if idle.len() == depth {
                return clock.result();
            }
            if ring.wait().is_err() {
                std::thread::sleep(Duration::from_millis(1));
            }
            while let Some((tag, result)) = ring.completion() {
                idle.push(tag as usize);
                clock.tick(result.is_ok_and(|bytes| bytes as u64 == piece_bytes));
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Places to read: blocks of all files, scattered.
struct Spots {
    /// File, and positions in it.
    files: Vec<(u32, u64)>,
    positions: u64,
    state: u64,
    piece_blocks: u64,
}

impl Spots {
    fn new(blocks: &[u64], seed: u64, piece_bytes: u64) -> Option<Spots> {
        let piece_blocks = piece_bytes / FILE_ALIGN;
        let positions = |(file, &blocks): (usize, &u64)| (file as u32, blocks / piece_blocks);
        let files: Vec<_> = blocks.iter().enumerate().map(positions).collect();
        let positions = files.iter().map(|(_, positions)| positions).sum();
        (positions > 0).then_some(Spots {
            files,
            positions,
            state: seed,
            piece_blocks,
        })
    }

    /// File and offset.
    fn next(&mut self) -> (u32, u64) {
        self.state = self
            .state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let mut position = (self.state >> 20) % self.positions;
        for &(file, positions) in &self.files {
            if position < positions {
                return (file, position * self.piece_blocks * FILE_ALIGN);
            }
            position -= positions;
        }
        (0, 0)
    }
}

/// Counts requests that end while the disk is busy: from when as many as are in flight have ended,
/// to the end of the window.
struct Clock {
    depth: usize,
    ended: usize,
    begun: Option<Instant>,
    last: Duration,
    failed: bool,
}

impl Clock {
    fn new(depth: usize) -> Clock {
        Clock {
            depth,
            ended: 0,
            begun: None,
            last: Duration::ZERO,
            failed: false,
        }
    }

    /// A request ended.
    fn tick(&mut self, well: bool) {
        self.failed |= !well;
        if self.over() {
            return;
        }
        self.ended += 1;
        match self.begun {
            None if self.ended == self.depth => {
                self.begun = Some(Instant::now());
                self.ended = 0;
            }
            None => {}
            Some(begun) => self.last = begun.elapsed(),
        }
    }

    /// Whether no more requests are to begin.
    fn over(&self) -> bool {
        let enough = match self.ended >= 2 * self.depth.max(4) {
            true => WINDOW,
            false => LONGEST_WINDOW,
        };
        self.failed || self.begun.is_some() && self.last >= enough
    }

    /// Requests that ended, and in how many seconds.
    fn result(&self) -> Option<(u64, f64)> {
        let seconds = self.last.as_secs_f64();
        let measured = !self.failed && self.begun.is_some() && seconds > 0.0;
        measured.then_some((self.ended as u64, seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spots_lie_in_the_files_and_reach_all_of_them() {
        let blocks = [1000, 0, 100, 300];
        let Some(mut spots) = Spots::new(&blocks, 3, 256 << 10) else {
            unreachable!("there are positions")
        };
        let mut seen = [0; 4];
        for _ in 0..1000 {
            let (file, offset) = spots.next();
            seen[file as usize] += 1;
            assert!(offset + (256 << 10) <= blocks[file as usize] * FILE_ALIGN);
        }
        assert_eq!(seen[1], 0);
        assert!(
            seen[0] > seen[3] && seen[3] > seen[2] && seen[2] > 0,
            "{seen:?}"
        );
        assert!(Spots::new(&[63], 3, 256 << 10).is_none());
    }

    #[test]
    fn only_settings_in_the_window_count() {
        let mut clock = Clock::new(2);
        assert!(clock.result().is_none());
        clock.tick(true);
        clock.tick(true);
        assert_eq!((clock.ended, clock.begun.is_some()), (0, true));
        clock.tick(true);
        clock.last = Duration::from_millis(10);
        assert_eq!(clock.result(), Some((1, 0.01)));
        clock.ended = 8;
        clock.last = WINDOW;
        assert!(clock.over());
        clock.tick(true);
        assert_eq!(clock.ended, 8, "late ends do not count");
        clock.tick(false);
        assert!(clock.result().is_none());
    }
}
