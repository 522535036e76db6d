//! Reads that go wrong on purpose, by a seeded plan: for tests of everything above them.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::Reader;

/// What goes wrong, how often. A place (file and offset) draws its fault once from the seed, so
/// a plan does the same whatever the timing.
#[derive(Clone, Debug, Default)]
pub struct FaultPlan {
    /// Decides which places fail and how long each read takes.
    pub seed: u64,
    /// Share of places, 0 to 1, that return an error.
    pub errors: f64,
    /// Share of places that fill half the buffer and report the end of the file.
    pub short_reads: f64,
    /// Share of places that flip one bit and report success.
    pub flipped_bits: f64,
    /// Share of places whose reads take `stall` longer, and then succeed.
    pub stalls: f64,
    /// How long a stall is.
    pub stall: Duration,
    /// False: a faulty place fails on its first read only. True: on every read.
    pub persistent: bool,
    /// Faults strike only reads that touch these bytes of this file. None: all.
    pub only: Option<(u32, Range<u64>)>,
    /// The disk is away, and every read fails, for these reads: numbers counted from 0 at the
    /// start.
    pub away: Range<u64>,
    /// Every read sleeps for a random time below this, so that reads overtake each other.
    pub max_delay: Duration,
    /// Counts what went wrong; shared by all that the plan is given to.
    pub tally: Arc<FaultTally>,
}

/// How many reads went wrong in which way.
#[derive(Debug, Default)]
pub struct FaultTally {
    /// Reads that returned an error.
    pub errors: AtomicU64,
    /// Reads that ended half-way.
    pub short_reads: AtomicU64,
    /// Reads with one bit flipped.
    pub flipped_bits: AtomicU64,
    /// Reads that stalled.
    pub stalls: AtomicU64,
    /// Reads while the disk was away.
    pub away: AtomicU64,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    Error,
    ShortRead,
    FlippedBit(u64),
    Stall,
}

/// What is to happen to one read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fate {
    /// It begins that much later.
    pub delay: Duration,
    fault: Option<Fault>,
}

/// A plan at work.
pub(crate) struct Faults {
    plan: FaultPlan,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    reads: u64,
    /// How often each place was read.
    by_place: HashMap<(u32, u64), u64>,
}

impl Faults {
    pub fn new(plan: FaultPlan) -> Faults {
        Faults {
            plan,
            counts: Mutex::default(),
        }
    }

    /// Decides about the next read of a place.
    pub fn draw(&self, file: u32, offset: u64, bytes: usize) -> Fate {
        let plan = &self.plan;
        let (number, earlier) = {
            let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
            counts.reads += 1;
            let number = counts.reads - 1;
            let count = counts.by_place.entry((file, offset)).or_default();
            *count += 1;
            (number, *count - 1)
        };
        let away = plan.away.contains(&number);
        let fault = match away {
            true => Some(Fault::Error),
            false => self.fault(file, offset, bytes, earlier),
        };
        let tally = &plan.tally;
        let count = match fault {
            _ if away => Some(&tally.away),
            None => None,
            Some(Fault::Error) => Some(&tally.errors),
            Some(Fault::ShortRead) => Some(&tally.short_reads),
            Some(Fault::FlippedBit(_)) => Some(&tally.flipped_bits),
            Some(Fault::Stall) => Some(&tally.stalls),
        };
        if let Some(count) = count {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let mut delay = Duration::ZERO;
        if let most @ 1.. = plan.max_delay.as_nanos() as u64 {
            let draw = mix(plan.seed, file, offset, 2 + earlier);
            delay = Duration::from_nanos(draw % most);
        }
        if let Some(Fault::Stall) = fault {
            delay += plan.stall;
        }
        Fate { delay, fault }
    }

    fn fault(&self, file: u32, offset: u64, bytes: usize, earlier_reads: u64) -> Option<Fault> {
        let plan = &self.plan;
        if earlier_reads > 0 && !plan.persistent {
            return None;
        }
        if let Some((only, range)) = &plan.only {
            let touches = offset < range.end && range.start < offset + bytes as u64;
            if file != *only || !touches {
                return None;
            }
        }
        let draw = mix(plan.seed, file, offset, 0);
        let mut share = (draw >> 11) as f64 / (1u64 << 53) as f64;
        let flip = Fault::FlippedBit(mix(plan.seed, file, offset, 1));
        let kinds = [
            (plan.errors, Fault::Error),
            (plan.short_reads, Fault::ShortRead),
            (plan.flipped_bits, flip),
            (plan.stalls, Fault::Stall),
        ];
        for (kind_share, fault) in kinds {
            if share < kind_share {
                return Some(fault);
            }
            share -= kind_share;
        }
        None
    }
}

impl Fate {
    /// How a read that went well ends.
    pub fn result(self) -> io::Result<()> {
        match self.fault {
            None | Some(Fault::Stall | Fault::FlippedBit(_)) => Ok(()),
            Some(Fault::Error) => Err(io::Error::other("planned read error")),
            Some(Fault::ShortRead) => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "planned short read",
            )),
        }
    }

    /// What becomes of the bytes.
    pub fn spoil(self, out: &mut [u8]) {
        match self.fault {
            Some(Fault::FlippedBit(draw)) => {
                if let Some(bit) = draw.checked_rem(out.len() as u64 * 8) {
                    out[(bit / 8) as usize] ^= 1 << (bit % 8);
                }
            }
            Some(Fault::ShortRead) => {
                let half = out.len() / 2;
                out[half..].fill(0xdd);
            }
            None | Some(Fault::Error | Fault::Stall) => {}
        }
    }
}

/// Wraps another reader and applies a [`FaultPlan`]. For io_uring see
/// [`ReaderChoice::Faulty`](super::ReaderChoice::Faulty).
pub struct FaultyReader {
    inner: Arc<dyn Reader>,
    faults: Faults,
}

impl FaultyReader {
    /// A reader that reads as `inner` does, except for what the plan says.
    pub fn new(inner: Arc<dyn Reader>, plan: FaultPlan) -> FaultyReader {
        FaultyReader {
            inner,
            faults: Faults::new(plan),
        }
    }
}

impl Reader for FaultyReader {
    fn read(&self, file: u32, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let fate = self.faults.draw(file, offset, out.len());
        if !fate.delay.is_zero() {
            std::thread::sleep(fate.delay);
        }
        self.inner.read(file, offset, out)?;
        fate.spoil(out);
        fate.result()
    }

    fn name(&self) -> String {
        format!("faulty {}", self.inner.name())
    }

    fn is_direct(&self) -> bool {
        self.inner.is_direct()
    }
}

/// 64 well-mixed bits from a seed, a place and a purpose (splitmix64's finalizer, chained).
fn mix(seed: u64, file: u32, offset: u64, purpose: u64) -> u64 {
    [u64::from(file), offset, purpose]
        .into_iter()
        .fold(seed, |state, value| {
            let mut bits = (state ^ value).wrapping_add(0x9e37_79b9_7f4a_7c15);
            bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            bits ^ (bits >> 31)
        })
}
