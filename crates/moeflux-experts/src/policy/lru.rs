//! Least recently used.

use super::{Policy, Rank};

pub(super) struct Lru {
    clock: u64,
    last_use: Vec<u64>,
}

impl Lru {
    pub fn new(keys: usize) -> Lru {
        Lru {
            clock: keys as u64,
            last_use: vec![0; keys],
        }
    }
}

impl Policy for Lru {
    fn used(&mut self, key: u32) {
        self.clock += 1;
        self.last_use[key as usize] = self.clock;
    }

    fn rank(&self, key: u32) -> Rank {
        Rank {
            score: 0.0,
            last_use: self.last_use[key as usize],
        }
    }

    /// As if the experts had been used in order of popularity, the most popular last.
    fn seed(&mut self, counts: &[f32]) {
        let mut keys: Vec<u32> = (0..counts.len().min(self.last_use.len()) as u32).collect();
        keys.sort_by(|&a, &b| counts[a as usize].total_cmp(&counts[b as usize]));
        for (place, &key) in keys.iter().enumerate() {
            if counts[key as usize] > 0.0 {
                self.last_use[key as usize] = place as u64;
            }
        }
    }
}
