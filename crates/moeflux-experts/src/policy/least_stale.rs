//! Least stale, after arXiv 2602.03921: what the last turn of its layer did not use is stale and
//! goes first; among stale experts, and then among the others, the one whose layer's turn is
//! farthest away.

use super::Policy;

pub(super) struct LeastStale {
    layers: u32,
    /// By key.
    layer_of: Vec<u32>,
    /// By key: the turn of its layer in which it was last used.
    used: Vec<u32>,
    /// By layer: turns so far.
    turns: Vec<u32>,
    /// The layer whose turn it is.
    layer: u32,
    /// By slot: what it holds, and whether it may go.
    slots: Vec<(u32, bool)>,
}

impl LeastStale {
    pub fn new(slots: usize, experts: &[u32]) -> LeastStale {
        let keys = |(layer, &n): (u32, &u32)| (0..n).map(move |_| layer);
        let layer_of: Vec<u32> = (0..).zip(experts).flat_map(keys).collect();
        LeastStale {
            layers: experts.len() as u32,
            used: vec![0; layer_of.len()],
            layer_of,
            turns: vec![0; experts.len()],
            layer: u32::MAX,
            slots: vec![(0, false); slots],
        }
    }

    /// The lower goes first: not stale, and the turns of other layers before its own come again.
    fn rank(&self, key: u32) -> (bool, u32) {
        let layer = self.layer_of[key as usize];
        let is_fresh = self.used[key as usize] == self.turns[layer as usize];
        let behind = (self.layers + self.layer - layer) % self.layers;
        (is_fresh, behind)
    }
}

impl Policy for LeastStale {
    fn admit(&mut self, slot: u32, key: u32) {
        self.slots[slot as usize].0 = key;
        self.touch(slot);
    }

    fn touch(&mut self, slot: u32) {
        let (key, may_go) = &mut self.slots[slot as usize];
        *may_go = false;
        let layer = self.layer_of[*key as usize];
        if layer != self.layer {
            self.layer = layer;
            let turns = &mut self.turns[layer as usize];
            *turns = turns.wrapping_add(1);
        }
        self.used[*key as usize] = self.turns[layer as usize];
    }

    fn release(&mut self, slot: u32) {
        self.slots[slot as usize].1 = true;
    }

    /// Goes through all slots, since the order changes with every layer.
    fn victim(&mut self) -> Option<u32> {
        let idle = (0..).zip(&self.slots).filter(|(_, (_, may_go))| *may_go);
        let (slot, _) = idle.min_by_key(|(_, (key, _))| self.rank(*key))?;
        self.forget(slot);
        Some(slot)
    }

    fn forget(&mut self, slot: u32) {
        self.slots[slot as usize].1 = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three layers of four experts; each expert is in the slot of its number.
    fn after(uses: &[u32]) -> LeastStale {
        let mut policy = LeastStale::new(12, &[4, 4, 4]);
        for &key in uses {
            policy.admit(key, key);
            policy.release(key);
        }
        policy
    }

    fn order(policy: &mut LeastStale) -> Vec<u32> {
        std::iter::from_fn(|| policy.victim()).collect()
    }

    #[test]
    fn stale_experts_go_first_and_of_them_the_layer_just_passed() {
        let mut policy = after(&[0, 1, 4, 5, 8, 9, 0, 4]);
        // In turn after layer 1: 1 and 5 were not used again, 8 and 9 are of the last pass.
        assert_eq!(order(&mut policy), [5, 1, 4, 0, 8, 9]);
    }

    #[test]
    fn what_is_in_use_or_forgotten_stays() {
        let mut policy = after(&[0, 1, 2]);
        policy.touch(1);
        policy.forget(2);
        assert_eq!(order(&mut policy), [0]);
    }
}
