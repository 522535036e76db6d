//! Whether a missing expert is computed by the processor or brought to the device: it is computed
//! until that has taken as long as bringing it over would have.

use std::collections::HashMap;
use std::time::Duration;

/// Measured times, and what has been spent on each expert since it left the device.
#[derive(Default)]
pub(super) struct Costs {
    bring: Mean,
    compute: Mean,
    spent: HashMap<(usize, u32), f64>,
}

/// A running mean of the seconds of an expert.
#[derive(Default)]
struct Mean(Option<f64>);

impl Mean {
    fn note(&mut self, experts: usize, time: Duration) {
        if experts > 0 {
            let new = time.as_secs_f64() / experts as f64;
            self.0 = Some(self.0.map_or(new, |old| 0.9 * old + 0.1 * new));
        }
    }
}

impl Costs {
    /// Experts were brought to the device; the time without what they took to be read.
    pub fn brought(&mut self, experts: usize, time: Duration) {
        self.bring.note(experts, time);
    }

    /// The processor computed experts.
    pub fn computed(&mut self, experts: usize, time: Duration) {
        self.compute.note(experts, time);
    }

    /// Which of a layer's experts that are not on the device the processor computes now; `free` of
    /// its slots hold nothing yet.
    pub fn choose(&mut self, layer: usize, missing: &[u32], free: usize) -> Vec<u32> {
        let asked = missing.iter().copied().skip(free);
        asked.filter(|&id| self.rents(layer, id)).collect()
    }

    fn rents(&mut self, layer: usize, expert: u32) -> bool {
        // Each way is tried once.
        let Some(bring) = self.bring.0 else {
            return false;
        };
        let compute = self.compute.0.unwrap_or(0.0);
        let spent = self.spent.entry((layer, expert)).or_default();
        if *spent + compute > bring {
            *spent = 0.0;
            return false;
        }
        *spent += compute;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn costs(bring: u64, compute: u64) -> Costs {
        let mut costs = Costs::default();
        costs.brought(1, Duration::from_micros(bring));
        costs.computed(1, Duration::from_micros(compute));
        costs
    }

    #[test]
    fn an_expert_is_brought_when_computing_it_has_cost_as_much() {
        let mut costs = costs(1000, 300);
        let rents: Vec<bool> = (0..8).map(|_| costs.rents(0, 5)).collect();
        assert_eq!(rents, [true, true, true, false, true, true, true, false]);
        // Another expert's and another layer's accounts are their own.
        assert!(costs.rents(0, 6) && costs.rents(1, 5));
    }

    #[test]
    fn what_is_cheaper_to_bring_is_brought() {
        let mut costs = costs(100, 300);
        assert!((0..4).all(|_| !costs.rents(2, 9)));
    }

    #[test]
    fn free_slots_are_filled_first() {
        let mut costs = costs(1000, 300);
        assert_eq!(costs.choose(1, &[4, 6, 9], 1), [6, 9]);
        assert!(costs.choose(1, &[4, 6, 9], 3).is_empty());
    }

    #[test]
    fn both_ways_are_tried() {
        let mut costs = Costs::default();
        assert!(!costs.rents(0, 0));
        costs.brought(0, Duration::from_secs(1));
        assert!(!costs.rents(0, 0));
        costs.brought(2, Duration::from_secs(1));
        assert!(costs.rents(0, 0));
    }
}
