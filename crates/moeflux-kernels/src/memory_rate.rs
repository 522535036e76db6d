//! How fast memory is read here, measured: what no kernel can exceed for weights that are in no
//! cache.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// What a thread reads in a turn: little enough that some turns meet no interruption, and too much
/// to be in the caches when its turn comes again.
const TURN_BYTES: usize = 8 << 20;
/// How long turns are taken.
const TIME: Duration = Duration::from_millis(400);
/// Bytes added up at a time, in as many registers as hide the latency of an addition.
const STRIDE: usize = 256;

/// Bytes a second that threads read from memory together.
#[derive(Clone, Copy, Debug)]
pub struct MemoryRate {
    /// In the best turn: what else the machine does only ever slows one down.
    pub best: f64,
    /// In the median turn: what the machine gives while this busy.
    pub median: f64,
}

/// How fast `threads` threads (0 counts as 1; no more than there are bytes for) read `memory`, which
/// should be far larger than the caches and in huge pages. Its contents are overwritten.
pub fn memory_rate(memory: &mut [u8], threads: usize) -> MemoryRate {
    let threads = threads.clamp(1, (memory.len() / STRIDE).max(1));
    let part_bytes = (memory.len() / threads / STRIDE).max(1) * STRIDE;
    let turn_bytes = part_bytes.min(TURN_BYTES);
    let walkers = Walkers {
        count: threads,
        arrived: AtomicUsize::new(0),
        clock: Instant::now(),
        first_start: AtomicU64::new(u64::MAX),
        last_end: AtomicU64::new(0),
        is_over: AtomicBool::new(false),
    };
    let mut parts = memory.chunks_exact_mut(part_bytes);
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
    MemoryRate {
        best: rate(nanos.first()),
        median: rate(nanos.get(nanos.len() / 2)),
    }
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
        let end = now() + TIME.as_nanos() as u64;
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
        let mut memory = vec![0; 16 << 20];
        for threads in [0, 1, 3, 64] {
            let rate = memory_rate(&mut memory, threads);
            assert!(rate.best.is_finite(), "{threads} threads: {rate:?}");
            assert!(
                rate.median > 0.0 && rate.median <= rate.best,
                "{threads}: {rate:?}"
            );
        }
    }

    #[test]
    fn memory_for_fewer_threads_is_read_by_fewer() {
        assert!(memory_rate(&mut [0; 2 * STRIDE], 5).best > 0.0);
        assert!(memory_rate(&mut [], 5).best >= 0.0);
    }
}
