//! Least recently used.

use super::Policy;
use super::queue::{Rank, VictimQueue};

pub(super) struct Lru {
    clock: u64,
    last_use: Vec<u64>,
    queue: VictimQueue,
}

impl Lru {
    pub fn new(slots: usize) -> Lru {
        Lru {
            clock: 0,
            last_use: vec![0; slots],
            queue: VictimQueue::new(slots),
        }
    }
}

impl Policy for Lru {
    fn admit(&mut self, slot: u32, _key: u32) {
        self.touch(slot);
    }

    fn touch(&mut self, slot: u32) {
        self.clock += 1;
        self.last_use[slot as usize] = self.clock;
        self.queue.remove(slot);
    }

    fn release(&mut self, slot: u32) {
        // By use, not by release: experts of one lease are released in order of arrival.
        let rank = Rank {
            score: 0.0,
            last_use: self.last_use[slot as usize],
        };
        self.queue.insert(slot, rank);
    }

    fn victim(&mut self) -> Option<u32> {
        self.queue.pop()
    }

    fn forget(&mut self, slot: u32) {
        self.queue.remove(slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evicts_by_use_and_never_what_is_in_use() {
        let mut policy = Lru::new(3);
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
