//! Belady's rule, for replays: the expert goes whose next use is farthest.

use super::ranked::{Rank, Ranking};

/// Knows every use beforehand.
pub(super) struct Belady {
    /// The times at which each key is used, in order, key by key.
    times: Vec<u32>,
    /// By key: the first of its uses that is yet to come, and the end of its uses.
    next: Vec<(u32, u32)>,
}

impl Belady {
    /// `uses` are (time, key), in order of time.
    pub fn new(keys: usize, uses: &[(u32, u32)]) -> Belady {
        let mut next = vec![(0, 0); keys];
        for &(_, key) in uses {
            next[key as usize].1 += 1;
        }
        let mut start = 0;
        for (first, end) in &mut next {
            let count = *end;
            (*first, *end) = (start, start);
            start += count;
        }
        let mut times = vec![0; uses.len()];
        for &(time, key) in uses {
            let end = &mut next[key as usize].1;
            times[*end as usize] = time;
            *end += 1;
        }
        Belady { times, next }
    }
}

impl Ranking for Belady {
    fn used(&mut self, key: u32) {
        let (first, end) = &mut self.next[key as usize];
        *first = (*first + 1).min(*end);
    }

    fn rank(&self, key: u32) -> Rank {
        let (first, end) = self.next[key as usize];
        let score = match first < end {
            true => -f64::from(self.times[first as usize]),
            false => f64::NEG_INFINITY,
        };
        Rank { score, last_use: 0 }
    }
}
