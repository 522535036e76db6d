//! Least frequently used, where the weight of a use halves every few uses of anything.
//!
//! Counts belong to experts, not to slots: an expert that comes back has not lost its past.

use super::Policy;
use super::queue::{Rank, VictimQueue};

/// Uses, as a multiple of the slots, after which a use counts half. Long enough that an expert's
/// rank rests on several uses of it, short enough that a new topic shows within some answers.
const HALF_LIFE_PER_SLOT: u64 = 8;

/// Scores are scaled down when a use weighs this much.
const WEIGHT_LIMIT: f64 = 1e100;

/// Rather than decay all counts, later uses weigh more: the order is the same, and a use touches
/// one count only.
pub(super) struct Frequency {
    clock: u64,
    half_life: u64,
    /// What a use weighs now.
    weight: f64,
    score: Vec<f64>,
    key: Vec<u32>,
    last_use: Vec<u64>,
    queue: VictimQueue,
}

impl Frequency {
    pub fn new(slots: usize, keys: usize) -> Frequency {
        Frequency {
            clock: 0,
            half_life: HALF_LIFE_PER_SLOT * slots as u64,
            weight: 1.0,
            score: vec![0.0; keys],
            key: vec![0; slots],
            last_use: vec![0; slots],
            queue: VictimQueue::new(slots),
        }
    }

    fn age(&mut self) {
        self.clock += 1;
        if self.clock.is_multiple_of(self.half_life) {
            self.weight *= 2.0;
        }
        if self.weight > WEIGHT_LIMIT {
            let factor = 1.0 / self.weight;
            self.score.iter_mut().for_each(|score| *score *= factor);
            self.queue.scale(factor);
            self.weight = 1.0;
        }
    }
}

impl Policy for Frequency {
    fn admit(&mut self, slot: u32, key: u32) {
        self.key[slot as usize] = key;
        self.touch(slot);
    }

    fn touch(&mut self, slot: u32) {
        self.age();
        self.last_use[slot as usize] = self.clock;
        self.score[self.key[slot as usize] as usize] += self.weight;
        self.queue.remove(slot);
    }

    fn release(&mut self, slot: u32) {
        let score = self.score[self.key[slot as usize] as usize];
        self.queue.insert(
            slot,
            Rank {
                score,
                last_use: self.last_use[slot as usize],
            },
        );
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

    fn use_once(policy: &mut Frequency, slot: u32) {
        policy.touch(slot);
        policy.release(slot);
    }

    fn filled(slots: u32) -> Frequency {
        let mut policy = Frequency::new(slots as usize, 10);
        for slot in 0..slots {
            policy.admit(slot, slot);
            policy.release(slot);
        }
        policy
    }

    #[test]
    fn evicts_the_least_used_and_ties_by_age() {
        let mut policy = filled(3);
        use_once(&mut policy, 0);
        assert_eq!(policy.victim(), Some(1));
        assert_eq!(policy.victim(), Some(2));
        assert_eq!(policy.victim(), Some(0));
    }

    #[test]
    fn old_uses_fade() {
        let mut policy = filled(2);
        (0..8).for_each(|_| use_once(&mut policy, 0));
        // Eight uses long ago against two half-lives of rarer but recent ones.
        (0..40).for_each(|_| use_once(&mut policy, 1));
        (0..2000).for_each(|_| use_once(&mut policy, 1));
        use_once(&mut policy, 0);
        assert_eq!(policy.victim(), Some(0));
        assert!(policy.weight >= 1.0 && policy.score.iter().all(|score| score.is_finite()));
    }

    #[test]
    fn scaling_keeps_order_over_a_long_run() {
        let mut policy = filled(2);
        (0..200_000u32).for_each(|turn| use_once(&mut policy, u32::from(turn % 3 == 0)));
        assert!(policy.weight <= WEIGHT_LIMIT);
        assert_eq!(policy.victim(), Some(1));
    }

    #[test]
    fn an_evicted_expert_keeps_its_count() {
        let mut policy = filled(2);
        (0..3).for_each(|_| use_once(&mut policy, 0));
        assert_eq!(policy.victim(), Some(1));
        policy.admit(1, 5);
        policy.release(1);
        policy.forget(0);
        policy.admit(0, 1);
        policy.release(0);
        assert_eq!(policy.victim(), Some(1), "one use against two");
    }
}
