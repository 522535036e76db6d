//! Who goes when room is needed, over all that passes through the arena.
//!
//! A policy ranks experts by how they are used token by token. A prompt uses nearly all experts of
//! every layer once, one layer after the other: ranked like that, it would throw out everything
//! that the answers before it had collected, and each layer just before its turn comes again. So
//! what a pass brings in stays out of the policy's hands until the pass is over, and makes room for
//! the rest of the pass first:
//! - while another pass follows, the most recently used expert goes, since its turn is farthest
//!   away (Belady's rule, for once with a known future);
//! - in the last pass, the one that the fewest tokens used, since the answer will resemble them.

use super::Policy;
use super::queue::{Rank, VictimQueue};

/// How a step uses the experts of a layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pass {
    /// Some of them, as one token or a few do.
    #[default]
    Sparse,
    /// Most of them, once, layer after layer.
    Scan {
        /// Whether the next step does the same.
        again: bool,
    },
}

/// A policy, and the slots that passes have filled.
pub(crate) struct Victims {
    policy: Box<dyn Policy>,
    pass: Pass,
    /// Slots filled by a pass that are not in use.
    passed: VictimQueue,
    /// By slot: a pass filled it, and the policy thinks that it is in use.
    from_pass: Vec<bool>,
    clock: u64,
}

impl Victims {
    pub fn new(policy: Box<dyn Policy>, slots: usize) -> Victims {
        Victims {
            policy,
            pass: Pass::Sparse,
            passed: VictimQueue::new(slots),
            from_pass: vec![false; slots],
            clock: 0,
        }
    }

    /// How often each expert was used before the start, by key.
    pub fn seed(&mut self, uses: &[f32]) {
        self.policy.seed(uses);
    }

    /// What the present step is.
    pub fn pass(&self) -> Pass {
        self.pass
    }

    /// What follows belongs to such a step.
    pub fn begin(&mut self, pass: Pass) {
        self.pass = pass;
        if pass == Pass::Sparse {
            while let Some(slot) = self.passed.pop() {
                self.from_pass[slot as usize] = false;
                self.policy.release(slot);
            }
        }
    }

    /// The slot is about to hold `key`, and in use.
    pub fn admit(&mut self, slot: u32, key: u32) {
        self.policy.admit(slot, key);
        self.from_pass[slot as usize] = self.pass != Pass::Sparse;
    }

    /// What the slot holds is used again, and in use.
    pub fn touch(&mut self, slot: u32) {
        self.passed.remove(slot);
        self.policy.touch(slot);
    }

    /// The slot is no longer in use, after as many tokens of the step as that used it.
    pub fn release(&mut self, slot: u32, tokens: u32) {
        let Pass::Scan { again } = self.pass else {
            self.from_pass[slot as usize] = false;
            return self.policy.release(slot);
        };
        if !self.from_pass[slot as usize] {
            return self.policy.release(slot);
        }
        self.clock += 1;
        let score = match again {
            true => -(self.clock as f64),
            false => f64::from(tokens),
        };
        let last_use = self.clock;
        self.passed.insert(slot, Rank { score, last_use });
    }

    /// The slot to evict, forgotten at once; none if all are in use or empty.
    pub fn victim(&mut self) -> Option<u32> {
        let Some(slot) = self.passed.pop() else {
            return self.policy.victim();
        };
        self.policy.forget(slot);
        self.from_pass[slot as usize] = false;
        Some(slot)
    }

    /// The slot holds nothing any more.
    pub fn forget(&mut self, slot: u32) {
        self.passed.remove(slot);
        self.from_pass[slot as usize] = false;
        self.policy.forget(slot);
    }
}

#[cfg(test)]
mod tests {
    use super::super::PolicyKind;
    use super::*;

    /// Slots 0 to 3 used once each, in order.
    fn used() -> Victims {
        let mut victims = Victims::new(PolicyKind::Lru.create(8, &[100]), 8);
        for slot in 0..4 {
            victims.admit(slot, slot);
            victims.release(slot, 1);
        }
        victims
    }

    fn pass_through(victims: &mut Victims, slots: std::ops::Range<u32>, tokens: &[u32]) {
        for (slot, &tokens) in slots.zip(tokens) {
            victims.admit(slot, 50 + slot);
            victims.release(slot, tokens);
        }
    }

    #[test]
    fn a_pass_makes_room_for_itself_first() {
        let mut victims = used();
        victims.begin(Pass::Scan { again: true });
        pass_through(&mut victims, 4..8, &[9, 1, 5, 7]);
        let order: Vec<_> = std::iter::from_fn(|| victims.victim()).collect();
        assert_eq!(order, [7, 6, 5, 4, 0, 1, 2, 3], "the last used goes first");
    }

    #[test]
    fn the_last_pass_keeps_what_most_tokens_used() {
        let mut victims = used();
        victims.begin(Pass::Scan { again: false });
        pass_through(&mut victims, 4..8, &[9, 1, 5, 7]);
        assert_eq!([(); 2].map(|()| victims.victim()), [Some(5), Some(6)]);
    }

    #[test]
    fn what_was_there_before_stays_in_the_policys_hands() {
        let mut victims = used();
        victims.begin(Pass::Scan { again: true });
        victims.touch(0);
        victims.release(0, 3);
        pass_through(&mut victims, 4..6, &[1, 1]);
        victims.touch(4);
        assert_eq!(victims.victim(), Some(5), "slot 4 is in use");
        victims.release(4, 1);
        victims.begin(Pass::Sparse);
        let order: Vec<_> = std::iter::from_fn(|| victims.victim()).collect();
        assert_eq!(order, [1, 2, 3, 0, 4], "least recently used from here on");
    }

    #[test]
    fn a_forgotten_slot_is_nobodys_victim() {
        let mut victims = used();
        victims.begin(Pass::Scan { again: false });
        pass_through(&mut victims, 4..5, &[1]);
        (0..5).for_each(|slot| victims.forget(slot));
        assert_eq!(victims.victim(), None);
        victims.begin(Pass::Sparse);
        assert_eq!(victims.victim(), None);
    }
}
