//! A pinned set: the experts that were most popular before the start never go while there is any
//! other; of the others, the least recently used goes. Without a popularity record there is no set.

use super::lru::Lru;
use super::ranked::{Rank, Ranking};

/// The set takes at most one in so many slots: the rest must hold a step's other experts.
const SLOTS_PER_PIN: usize = 2;

pub(super) struct Pinned {
    slots: usize,
    /// By key.
    is_pinned: Vec<bool>,
    rest: Lru,
}

impl Pinned {
    pub fn new(slots: usize, keys: usize) -> Pinned {
        Pinned {
            slots,
            is_pinned: vec![false; keys],
            rest: Lru::new(keys),
        }
    }
}

impl Ranking for Pinned {
    fn used(&mut self, key: u32) {
        self.rest.used(key);
    }

    fn rank(&self, key: u32) -> Rank {
        Rank {
            score: f64::from(u8::from(self.is_pinned[key as usize])),
            ..self.rest.rank(key)
        }
    }

    fn seed(&mut self, uses: &[f32]) {
        let used = |&key: &usize| uses[key] > 0.0;
        let keys = self.is_pinned.len().min(uses.len());
        let mut keys: Vec<usize> = (0..keys).filter(used).collect();
        keys.sort_by(|&a, &b| uses[b].total_cmp(&uses[a]));
        for &key in keys.iter().take(self.slots / SLOTS_PER_PIN) {
            self.is_pinned[key] = true;
        }
        self.rest.seed(uses);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Policy;
    use super::super::ranked::Ranked;
    use super::*;

    #[test]
    fn the_most_popular_half_stays() {
        let mut policy = Ranked::new(Pinned::new(4, 8), 4);
        policy.seed(&[9.0, 0.0, 5.0, 7.0, 1.0, 0.0, 0.0, 0.0]);
        for (slot, key) in [(0, 0), (1, 1), (2, 2), (3, 3)] {
            policy.admit(slot, key);
            policy.release(slot);
        }
        let order: Vec<u32> = std::iter::from_fn(|| policy.victim()).collect();
        assert_eq!(order, [1, 2, 0, 3], "experts 0 and 3 are pinned");
    }
}
