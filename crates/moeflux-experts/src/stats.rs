//! What residency did: counters since the start or the last reset.

/// Counters and present sizes of a [`crate::Residency`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Leases taken.
    pub leases: u64,
    /// Experts asked for and found in memory.
    pub hits: u64,
    /// Experts asked for and not found.
    pub misses: u64,
    /// Reads begun ahead of use.
    pub ahead_reads: u64,
    /// Experts read ahead of use and there when they were asked for (counted as hits too).
    pub ahead_used: u64,
    /// Experts asked for while they were being read ahead of use (counted as misses too).
    pub ahead_late: u64,
    /// Experts read ahead of use and thrown out without having been asked for.
    pub ahead_wasted: u64,
    /// Experts thrown out to make room.
    pub evictions: u64,
    /// Requests to the reader, repeated ones included (a record is one or several).
    pub reads: u64,
    /// Bytes of requests that succeeded.
    pub bytes_read: u64,
    /// Requests repeated after an error, and records read again after a wrong checksum.
    pub retries: u64,
    /// Time of requests in the reader, summed over those in flight at once.
    pub read_us_total: u64,
    /// Time during which at least one request was in flight.
    pub busy_us_total: u64,
    /// Time that the lease holder was blocked waiting for a record.
    pub wait_us_total: u64,
    /// Records whose checksum was verified.
    pub verified: u64,
    /// Slots in use or free (not those given back).
    pub slots: usize,
    /// Bytes of a slot.
    pub slot_bytes: u64,
    /// Experts in memory now.
    pub resident: usize,
    /// The reader's name.
    pub reader: String,
    /// Whether the reader goes around the page cache.
    pub direct: bool,
    /// Requests that somebody waits for, in flight at most.
    pub depth: usize,
    /// Records are read in pieces of at most about this many bytes.
    pub piece_bytes: u64,
    /// Why the reader is not the one asked for, or not the usual one; `None`: it is.
    pub reader_note: Option<String>,
}

impl Stats {
    /// Share of experts found in memory, 0 to 1; 0 when none was asked for.
    pub fn hit_rate(&self) -> f64 {
        match self.hits + self.misses {
            0 => 0.0,
            all => self.hits as f64 / all as f64,
        }
    }
}
