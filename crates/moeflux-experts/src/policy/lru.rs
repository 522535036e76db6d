//! Least recently used.

use super::ranked::{Rank, Ranking};

pub(super) struct Lru {
    clock: u64,
    /// By key. By use, not by release: experts of one lease are released in order of arrival.
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

impl Ranking for Lru {
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

    /// As if they had been used in order of popularity, the most popular last.
    fn seed(&mut self, uses: &[f32]) {
        let mut keys: Vec<usize> = (0..self.last_use.len().min(uses.len())).collect();
        keys.sort_by(|&a, &b| uses[a].total_cmp(&uses[b]));
        for (place, key) in keys.into_iter().enumerate() {
            self.last_use[key] = place as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Policy;
    use super::super::ranked::Ranked;
    use super::*;

    #[test]
    fn evicts_by_use_and_never_what_is_in_use() {
        let mut policy = Ranked::new(Lru::new(10), 3);
        (0..3).for_each(|slot| policy.admit(slot, slot));
        assert_eq!(policy.victim(), None);
        [2, 0, 1].into_iter().for_each(|slot| policy.release(slot));
        policy.touch(0);
        assert_eq!(policy.victim(), Some(1));
        assert_eq!(policy.victim(), Some(2));
        assert_eq!(policy.victim(), None);
        policy.release(0);
        policy.forget(0);
        assert_eq!(policy.victim(), None);
    }
}
