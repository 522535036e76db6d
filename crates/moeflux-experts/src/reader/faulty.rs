//! A reader that goes wrong on purpose, by a seeded plan: for tests of everything above it.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::Reader;

/// What goes wrong, how often. A place (file and offset) draws its fault once from the seed, so
/// a plan does the same whatever the timing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FaultPlan {
    /// Decides which places fail and how long each read takes.
    pub seed: u64,
    /// Share of places, 0 to 1, that return an error.
    pub errors: f64,
    /// Share of places that fill half the buffer and report the end of the file.
    pub short_reads: f64,
    /// Share of places that flip one bit and report success.
    pub flipped_bits: f64,
    /// False: a faulty place fails on its first read only. True: on every read.
    pub persistent: bool,
    /// Faults strike only reads that touch these bytes of this file. None: all.
    pub only: Option<(u32, Range<u64>)>,
    /// Every read sleeps for a random time below this, so that reads overtake each other.
    pub max_delay: Duration,
}

#[derive(Clone, Copy)]
enum Fault {
    Error,
    ShortRead,
    FlippedBit(u64),
}

/// Wraps another reader and applies a [`FaultPlan`].
pub struct FaultyReader {
    inner: Arc<dyn Reader>,
    plan: FaultPlan,
    /// How often each place was read.
    reads: Mutex<HashMap<(u32, u64), u64>>,
}

impl FaultyReader {
    /// A reader that reads as `inner` does, except for what the plan says.
    pub fn new(inner: Arc<dyn Reader>, plan: FaultPlan) -> FaultyReader {
        FaultyReader {
            inner,
            plan,
            reads: Mutex::new(HashMap::new()),
        }
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
        let share = (draw >> 11) as f64 / (1u64 << 53) as f64;
        if share < plan.errors {
            Some(Fault::Error)
        } else if share < plan.errors + plan.short_reads {
            Some(Fault::ShortRead)
        } else if share < plan.errors + plan.short_reads + plan.flipped_bits {
            Some(Fault::FlippedBit(mix(plan.seed, file, offset, 1)))
        } else {
            None
        }
    }
}

impl Reader for FaultyReader {
    fn read(&self, file: u32, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let earlier_reads = {
            let mut reads = self.reads.lock().unwrap_or_else(PoisonError::into_inner);
            let count = reads.entry((file, offset)).or_default();
            *count += 1;
            *count - 1
        };
        let most = self.plan.max_delay.as_nanos() as u64;
        if most > 0 {
            let delay = mix(self.plan.seed, file, offset, 2 + earlier_reads) % most;
            std::thread::sleep(Duration::from_nanos(delay));
        }
        match self.fault(file, offset, out.len(), earlier_reads) {
            None => self.inner.read(file, offset, out),
            Some(Fault::Error) => Err(io::Error::other("planned read error")),
            Some(Fault::ShortRead) => {
                let half = out.len() / 2;
                self.inner.read(file, offset, &mut out[..half])?;
                Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "planned short read",
                ))
            }
            Some(Fault::FlippedBit(draw)) => {
                self.inner.read(file, offset, out)?;
                let bits = out.len() as u64 * 8;
                if let Some(bit) = draw.checked_rem(bits) {
                    out[(bit / 8) as usize] ^= 1 << (bit % 8);
                }
                Ok(())
            }
        }
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
