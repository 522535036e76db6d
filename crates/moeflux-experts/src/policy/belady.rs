//! Belady's rule, for replays: the expert goes whose next use is farthest.

use super::{Policy, Rank};

/// Knows every use beforehand. Leases are counted from 0 as they begin.
pub(crate) struct Belady {
    /// Leases begun.
    begun: u32,
    /// The leases that use each key, in order, key by key.
    uses: Vec<u32>,
    /// By key: the first of its uses that is yet to come, and the end of its uses.
    next: Vec<(u32, u32)>,
}

impl Belady {
    /// `uses` are (lease, key), in order of leases.
    pub fn new(keys: usize, uses: impl Iterator<Item = (u32, u32)> + Clone) -> Belady {
        let mut next = vec![(0, 0); keys];
        for (_, key) in uses.clone() {
            next[key as usize].1 += 1;
        }
        let mut start = 0;
        for (first, count) in &mut next {
            (*first, *count, start) = (start, start, start + *count);
        }
        let mut leases = vec![0; start as usize];
        for (lease, key) in uses {
            let end = &mut next[key as usize].1;
            leases[*end as usize] = lease;
            *end += 1;
        }
        Belady {
            begun: 0,
            uses: leases,
            next,
        }
    }
}

impl Policy for Belady {
    fn begin(&mut self, _layer: u32) {
        self.begun += 1;
    }

    fn used(&mut self, key: u32) {
        let (first, end) = &mut self.next[key as usize];
        while first < end && self.uses[*first as usize] < self.begun {
            *first += 1;
        }
    }

    fn rank(&self, key: u32) -> Rank {
        let (first, end) = self.next[key as usize];
        let score = match first < end {
            true => -f64::from(self.uses[first as usize]),
            false => f64::NEG_INFINITY,
        };
        Rank { score, last_use: 0 }
    }
}
