//! The rows of a table that were used last, in memory of fixed size.

/// Memory for the rows of a table, at most.
const CACHE_BYTES: u64 = 64 << 20;
/// Rows that share a place.
const WAYS: usize = 4;
/// Marks a place without a row.
const EMPTY: u64 = u64::MAX;

/// Rows that were used last: each row has a few places where it may lie, and takes that of the one
/// that was not used for the longest time.
pub(super) struct RowCache {
    row_bytes: usize,
    sets: u64,
    /// Row by place, `[sets, WAYS]`.
    rows: Vec<u64>,
    /// When it was used last.
    used: Vec<u64>,
    /// `[sets, WAYS, row_bytes]`.
    bytes: Vec<u8>,
    now: u64,
}

impl RowCache {
    fn place_bytes(row_bytes: usize) -> u64 {
        row_bytes as u64 + 16
    }

    /// Bytes that the cache of a table takes.
    pub fn memory_bytes(rows: u64, row_bytes: usize) -> u64 {
        let places = RowCache::sets_for(rows, row_bytes) * WAYS as u64;
        places * RowCache::place_bytes(row_bytes)
    }

    /// Sets for a table, so that it fits whole or within its share of memory.
    fn sets_for(rows: u64, row_bytes: usize) -> u64 {
        let places = (CACHE_BYTES / RowCache::place_bytes(row_bytes)).min(rows);
        places.div_ceil(WAYS as u64).max(1)
    }

    /// An empty cache for a table.
    pub fn new(rows: u64, row_bytes: usize) -> RowCache {
        let sets = RowCache::sets_for(rows, row_bytes);
        let places = sets as usize * WAYS;
        RowCache {
            row_bytes,
            sets,
            rows: vec![EMPTY; places],
            used: vec![0; places],
            bytes: vec![0; places * row_bytes],
            now: 0,
        }
    }

    /// The places where a row may lie. Rows are hashes already.
    fn places(&self, row: u64) -> std::ops::Range<usize> {
        let first = (row % self.sets) as usize * WAYS;
        first..first + WAYS
    }

    /// The bytes of a row, if it is there.
    pub fn find(&mut self, row: u64) -> Option<&[u8]> {
        let place = self.places(row).find(|&place| self.rows[place] == row)?;
        self.now += 1;
        self.used[place] = self.now;
        self.bytes
            .get(place * self.row_bytes..(place + 1) * self.row_bytes)
    }

    /// Keeps a row.
    pub fn keep(&mut self, row: u64, bytes: &[u8]) {
        let Some(place) = self.places(row).min_by_key(|&place| self.used[place]) else {
            return;
        };
        self.now += 1;
        (self.rows[place], self.used[place]) = (row, self.now);
        self.bytes[place * self.row_bytes..][..self.row_bytes].copy_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_row_that_was_not_used_for_longest_goes() {
        // Two sets: even rows share one.
        let mut cache = RowCache::new(8, 1);
        assert_eq!(cache.sets, 2);
        for row in [0, 2, 4, 6] {
            assert!(cache.find(row).is_none());
            cache.keep(row, &[row as u8]);
        }
        assert_eq!(cache.find(0), Some(&[0][..]));
        cache.keep(8, &[8]);
        assert!(cache.find(2).is_none(), "it was the oldest");
        for row in [0, 4, 6, 8] {
            assert_eq!(cache.find(row), Some(&[row as u8][..]));
        }
    }

    #[test]
    fn a_large_table_keeps_to_its_share_of_memory() {
        let bytes = RowCache::memory_bytes(320_000_000, 256);
        assert!(bytes <= CACHE_BYTES + 4 * 272, "{bytes}");
        assert!(bytes > CACHE_BYTES / 2, "{bytes}");
    }
}
