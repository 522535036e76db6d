//! What most policies are: a rank for each expert that only its own uses change, and a queue of
//! the slots that are not in use.

use super::Policy;
pub(super) use super::queue::Rank;
use super::queue::VictimQueue;

/// Ranks experts; the lower goes first. An expert's rank must not change unless it is used.
pub(super) trait Ranking: Send + Sync {
    /// An expert is used.
    fn used(&mut self, key: u32);
    /// Its rank, from here to its next use.
    fn rank(&self, key: u32) -> Rank;
    /// How often each expert was used before the start, by key.
    fn seed(&mut self, _uses: &[f32]) {}
}

/// The policy of a ranking.
pub(super) struct Ranked<R> {
    ranking: R,
    /// By slot.
    key: Vec<u32>,
    queue: VictimQueue,
}

impl<R: Ranking> Ranked<R> {
    pub fn new(ranking: R, slots: usize) -> Ranked<R> {
        Ranked {
            ranking,
            key: vec![0; slots],
            queue: VictimQueue::new(slots),
        }
    }
}

impl<R: Ranking> Policy for Ranked<R> {
    fn admit(&mut self, slot: u32, key: u32) {
        self.key[slot as usize] = key;
        self.touch(slot);
    }

    fn touch(&mut self, slot: u32) {
        self.ranking.used(self.key[slot as usize]);
        self.queue.remove(slot);
    }

    fn release(&mut self, slot: u32) {
        let rank = self.ranking.rank(self.key[slot as usize]);
        self.queue.insert(slot, rank);
    }

    fn victim(&mut self) -> Option<u32> {
        self.queue.pop()
    }

    fn forget(&mut self, slot: u32) {
        self.queue.remove(slot);
    }

    fn seed(&mut self, uses: &[f32]) {
        self.ranking.seed(uses);
    }
}
