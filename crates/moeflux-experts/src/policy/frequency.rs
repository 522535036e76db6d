//! Least frequently used, where the weight of a use halves every so many passes over the layers.
//!
//! Counts belong to experts, not to slots: an expert that comes back has not lost its past.

use super::{Pass, Policy, Rank};

pub(super) struct Frequency {
    pass: Pass,
    half_life: f64,
    clock: u64,
    /// By key: the logarithm, to base 2, of the sum of 2^(pass / half-life) over its uses. Rather
    /// than older uses weigh less, later ones weigh more: the order is the same, and a use
    /// touches one count only.
    score: Vec<f64>,
    last_use: Vec<u64>,
}

impl Frequency {
    /// A use counts half after `half_life` passes.
    pub fn new(keys: usize, half_life: f64) -> Frequency {
        Frequency {
            pass: Pass::default(),
            half_life,
            clock: 0,
            score: vec![f64::NEG_INFINITY; keys],
            last_use: vec![0; keys],
        }
    }
}

/// log2(2^a + 2^b)
fn log_add(a: f64, b: f64) -> f64 {
    let (low, high) = if a < b { (a, b) } else { (b, a) };
    high + (low - high).exp2().ln_1p() * std::f64::consts::LOG2_E
}

impl Policy for Frequency {
    fn begin(&mut self, layer: u32) {
        self.pass.begin(layer);
    }

    fn used(&mut self, key: u32) {
        self.clock += 1;
        let now = self.pass.count as f64 / self.half_life;
        let score = &mut self.score[key as usize];
        *score = log_add(*score, now);
        self.last_use[key as usize] = self.clock;
    }

    fn rank(&self, key: u32) -> Rank {
        Rank {
            score: self.score[key as usize],
            last_use: self.last_use[key as usize],
        }
    }

    fn seed(&mut self, counts: &[f32]) {
        for (score, &count) in self.score.iter_mut().zip(counts) {
            *score = f64::from(count).log2();
        }
    }
}
