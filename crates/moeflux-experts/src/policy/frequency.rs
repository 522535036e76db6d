//! Least frequently used, where the weight of a use halves every so many uses of anything.
//!
//! Counts belong to experts, not to slots: an expert that comes back has not lost its past.

use super::ranked::{Rank, Ranking};

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
    /// A use weighs half after `half_life` uses of anything.
    pub fn new(keys: usize, half_life: f64) -> Frequency {
        Frequency {
            clock: 0,
            half_life,
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
        for (score, &uses) in self.score.iter_mut().zip(uses) {
            *score = f64::from(uses).log2();
        }
    }
}
