//! Records read ahead of use: guesses of what the next layer will ask for.
//!
//! A guess holds a slot that no policy knows of. Until its layer has been asked for nobody may
//! have the slot; after that, if it was wrong, it is the first to go. Guesses never take more than
//! a part of the slots, and their reads wait until nobody waits for another.

use crate::pool::Urgency;
use crate::residency::{NO_SLOT, Residency, SlotState};

/// Guesses take at most one in so many slots.
const SLOTS_PER_GUESS: usize = 3;

/// The slots that were filled, or are being filled, ahead of use.
pub(crate) struct Ahead {
    /// Slots that hold a guess, or will: filling, or there.
    slots: Vec<u32>,
    /// How many of them are being filled.
    pub filling: usize,
    submitted: Vec<(u32, u32)>,
    promoted: Vec<u32>,
}

/// What became of records read ahead of use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct AheadCounters {
    /// Reads begun.
    pub begun: u64,
    /// Records that were asked for when they were there.
    pub used: u64,
    /// Records that were asked for while they were being read.
    pub late: u64,
    /// Records that were read to no purpose.
    pub wasted: u64,
}

impl Ahead {
    pub fn new(slots: usize) -> Ahead {
        Ahead {
            slots: Vec::with_capacity(slots / SLOTS_PER_GUESS),
            filling: 0,
            submitted: Vec::with_capacity(slots / SLOTS_PER_GUESS),
            promoted: Vec::new(),
        }
    }

    /// The slot is a guess no more.
    fn remove(&mut self, slot: u32) {
        if let Some(at) = self.slots.iter().position(|&guess| guess == slot) {
            self.slots.remove(at);
        }
    }
}

impl Residency {
    /// Begins to read experts of a layer that may be asked for next, in this order, as far as there
    /// is room for guesses. It waits for nothing, an unknown expert is passed over, and a read that
    /// fails is forgotten: asking for the expert tries again. Earlier guesses of other layers may
    /// go from now on.
    pub fn ahead(&mut self, layer: usize, experts: impl IntoIterator<Item = u32>) {
        self.poll();
        self.expire(|guessed| guessed != layer);
        let expected = self.ahead.slots.iter();
        let expected = expected.filter(|&&slot| !self.slots[slot as usize].expired);
        let room = (self.slots() / SLOTS_PER_GUESS).saturating_sub(expected.count());
        for expert in experts {
            let Ok(key) = self.index.key(layer, expert) else {
                continue;
            };
            if self.slot_of[key as usize] != NO_SLOT {
                continue;
            }
            if self.ahead.submitted.len() == room {
                break;
            }
            let Some(slot) = self.vacant_slot() else {
                break;
            };
            let state = &mut self.slots[slot as usize];
            state.state = SlotState::FillingAhead;
            state.key = key;
            state.expired = false;
            self.slot_of[key as usize] = slot;
            self.ahead.slots.push(slot);
            self.ahead.submitted.push((slot, key));
        }
        let begun = self.ahead.submitted.len();
        self.ahead.filling += begun;
        self.counters.ahead.begun += begun as u64;
        self.pool.submit(&self.ahead.submitted, Urgency::Ahead);
        self.ahead.submitted.clear();
    }

    /// The guesses for these layers may go.
    pub(crate) fn expire(&mut self, layers: impl Fn(usize) -> bool) {
        for &slot in &self.ahead.slots {
            let guess = &mut self.slots[slot as usize];
            guess.expired |= layers(self.index.entries[guess.key as usize].layer);
        }
    }

    /// A slot's guess was right: it is the lease's from now on. Returns whether it is there
    /// already; if not, it is on its way with no other before it but what the lease waits for.
    pub(crate) fn redeem(&mut self, slot: u32) -> bool {
        self.ahead.remove(slot);
        let guess = &mut self.slots[slot as usize];
        self.victims.admit(slot, guess.key);
        match guess.state {
            SlotState::Guess => {
                guess.state = SlotState::Pinned;
                self.counters.ahead.used += 1;
                true
            }
            _ => {
                guess.state = SlotState::Filling;
                self.ahead.filling -= 1;
                self.counters.ahead.late += 1;
                self.ahead.promoted.push(slot);
                false
            }
        }
    }

    /// Has the slots redeemed before they were filled read at once, and reads no other guesses.
    pub(crate) fn promote(&mut self) {
        self.pool.promote(&self.ahead.promoted);
        self.ahead.promoted.clear();
        if self.ahead.filling > 0 {
            self.pool.cancel(Urgency::Ahead);
        }
    }

    /// The filling of a guess has ended; `is_there`: and has succeeded.
    pub(crate) fn guess_ended(&mut self, slot: u32, is_there: bool) {
        self.ahead.filling -= 1;
        if is_there {
            self.slots[slot as usize].state = SlotState::Guess;
        } else {
            self.drop_guess(slot);
            self.free.push(slot);
        }
    }

    /// Takes the slot of the oldest guess that turned out wrong.
    pub(crate) fn wrong_guess(&mut self) -> Option<u32> {
        let is_wrong = |slot: &&u32| {
            let guess = &self.slots[**slot as usize];
            guess.expired && guess.state == SlotState::Guess
        };
        let slot = *self.ahead.slots.iter().find(is_wrong)?;
        self.counters.ahead.wasted += 1;
        self.drop_guess(slot);
        Some(slot)
    }

    /// Ends all guessing: what is there counts as wrong, what is being read is waited for.
    pub(crate) fn stop_guessing(&mut self) {
        self.expire(|_| true);
        if self.ahead.filling > 0 {
            self.pool.cancel(Urgency::Ahead);
        }
        while self.ahead.filling > 0 {
            self.collect_outcomes(true);
        }
        while let Some(slot) = self.wrong_guess() {
            self.free.push(slot);
        }
    }

    /// Makes a guess an empty slot, in no list.
    fn drop_guess(&mut self, slot: u32) {
        self.ahead.remove(slot);
        let state = &mut self.slots[slot as usize];
        state.state = SlotState::Free;
        self.slot_of[state.key as usize] = NO_SLOT;
    }
}
