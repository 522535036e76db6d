//! What a device's memory for experts has done so far.

use std::sync::atomic::{AtomicU64, Ordering};

use moeflux::backend::TierStats;

/// Counts of one device.
#[derive(Default)]
pub(crate) struct TierCounts {
    bytes: AtomicU64,
    slots: AtomicU64,
    brought: AtomicU64,
    brought_bytes: AtomicU64,
    beside: AtomicU64,
}

impl TierCounts {
    /// Slots were made.
    pub fn opened(&self, slots: usize, bytes: u64) {
        self.slots.fetch_add(slots as u64, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// An expert was brought over.
    pub fn brought(&self, bytes: u64) {
        self.brought.fetch_add(1, Ordering::Relaxed);
        self.brought_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Experts were computed by the processor.
    pub fn beside(&self, experts: usize) {
        self.beside.fetch_add(experts as u64, Ordering::Relaxed);
    }

    /// Bytes of all slots.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// All counts.
    pub fn stats(&self) -> TierStats {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        TierStats {
            slots: get(&self.slots),
            slot_bytes: get(&self.bytes),
            brought: get(&self.brought),
            brought_bytes: get(&self.brought_bytes),
            beside: get(&self.beside),
        }
    }
}
