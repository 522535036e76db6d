//! Least frequently used, where the weight of a use halves every so many uses of anything.
//!
//! Counts belong to experts, not to slots: an expert that comes back has not lost its past.

use super::ranked::{Rank, Ranking};

/// Uses, for each expert that there is, after which a use counts half. Long enough that an
/// expert's rank rests on several uses of it, short enough that a new topic shows within some
/// answers: for 256 experts of which a token uses 8, after 256 tokens.
const USES_PER_HALF_LIFE: f64 = 8.0;

pub(super) struct Frequency {
    clock: u64,
    half_life: f64,
    /// By key: the logarithm, to base 2, of the sum of 2^(clock / half-life) over its uses. Rather
    /// than older uses weigh less, later ones weigh more: the order is the same, and a use changes
    /// one score only.
    score: Vec<f64>,
    last_use: Vec<u64>,
}

impl Frequency {
    pub fn new(keys: usize) -> Frequency {
        Frequency {
            clock: 0,
            half_life: USES_PER_HALF_LIFE * keys as f64,
            score: vec![f64::NEG_INFINITY; keys],
            last_use: vec![0; keys],
        }
    }
}

/// log2(2^a + 2^b), b finite.
fn log_sum(a: f64, b: f64) -> f64 {
    let (low, high) = if a < b { (a, b) } else { (b, a) };
    high + (low - high).exp2().ln_1p() * std::f64::consts::LOG2_E
}

impl Ranking for Frequency {
    fn used(&mut self, key: u32) {
        self.clock += 1;
        let score = &mut self.score[key as usize];
        *score = log_sum(*score, self.clock as f64 / self.half_life);
        self.last_use[key as usize] = self.clock;
    }

    fn rank(&self, key: u32) -> Rank {
        Rank {
            score: self.score[key as usize],
            last_use: self.last_use[key as usize],
        }
    }

    fn seed(&mut self, uses: &[f32]) {
        // However many they are, they count no more than as many uses as fade within half a life.
        let all: f64 = uses.iter().map(|&uses| f64::from(uses)).sum();
        let factor = (self.half_life / all).min(1.0);
        for (score, &uses) in self.score.iter_mut().zip(uses) {
            *score = (f64::from(uses) * factor).log2();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Policy;
    use super::super::ranked::Ranked;
    use super::*;

    fn use_once(policy: &mut Ranked<Frequency>, slot: u32) {
        policy.touch(slot);
        policy.release(slot);
    }

    fn filled(slots: u32) -> Ranked<Frequency> {
        let mut policy = Ranked::new(Frequency::new(10), slots as usize);
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
        (0..20).for_each(|_| use_once(&mut policy, 0));
        (0..10).for_each(|_| use_once(&mut policy, 1));
        assert_eq!(policy.victim(), Some(1), "half as many uses, hardly later");
        policy.release(1);
        // A half-life is 80 uses: those of slot 0 have all but vanished after 800 others.
        (0..800).for_each(|_| use_once(&mut policy, 1));
        (0..5).for_each(|_| use_once(&mut policy, 0));
        assert_eq!(policy.victim(), Some(0));
    }

    #[test]
    fn scores_stay_finite_and_in_order_over_a_long_run() {
        let mut policy = filled(2);
        (0..200_000u32).for_each(|turn| use_once(&mut policy, u32::from(turn % 3 == 0)));
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

    #[test]
    fn earlier_uses_count() {
        let mut policy = Ranked::new(Frequency::new(4), 2);
        policy.seed(&[5.0, 0.0, 2.0, 0.0]);
        for (slot, key) in [(0, 0), (1, 1)] {
            policy.admit(slot, key);
            policy.release(slot);
        }
        use_once(&mut policy, 1);
        assert_eq!(policy.victim(), Some(1), "two uses against six");
    }
}
